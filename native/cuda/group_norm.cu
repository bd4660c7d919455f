/*
 * GroupNorm and SiLU over [channels, plane], float32 or float16; formula and shapes:
 * fluxd_group_norm in kernels.h. An image is too large to be kept, so it is read twice: one pass
 * takes mean and squares of chunks, the next combines those of its group and writes. Both orders of
 * sums are fixed.
 *
 * Squares are those of centred values, in a chunk and between chunks (Chan, Golub and LeVeque
 * 1979): a difference of means would lose the digits of groups far from 0.
 */
#include "operators.h"
#include "rows.h"
#include "scratch.h"

namespace fluxd::cuda {

namespace {

/** Of some values: their mean m, and Σ (x − m)². */
struct Moments {
  float mean, squares;
};

struct GroupNormOperands {
  const float *scale, *shift;
  const Moments *chunks;
  int64_t plane, groupLength;
  int groupChannels, groupChunks;
  float epsilon;
};

/** How many of `length` values lie in chunk number `index`. */
__host__ __device__ inline int chunkLength(int64_t index, int64_t length) {
  const int64_t left = length - index * kMaxRowWidth;
  return static_cast<int>(left < kMaxRowWidth ? left : kMaxRowWidth);
}

/** Block (chunk, group) writes the moments of its chunk of a group's `length` values. */
template <int V, typename T>
__global__ void __launch_bounds__(kMaxRowThreads)
    momentsKernel(const T *x, Moments *chunks, int64_t length) {
  const int64_t chunk = blockIdx.x, group = blockIdx.y;
  const int width = chunkLength(chunk, length);
  RowSlice<V> slice;
  const T *from = x + group * length + chunk * kMaxRowWidth;
  float sum = 0;
  slice.forEach(width, [&](float(&vector)[V], int first) {
    load(from + first, vector);
    for (int i = 0; i < V; i++) sum += vector[i];
  });
  const float mean = reduceBlock(sum, Sum()) / static_cast<float>(width);
  float squares = 0;
  slice.forEach(width, [&](float(&vector)[V], int) {
    for (int i = 0; i < V; i++) squares += (vector[i] - mean) * (vector[i] - mean);
  });
  squares = reduceBlock(squares, Sum());
  if (threadIdx.x == 0) chunks[group * gridDim.x + chunk] = {mean, squares};
}

/** The moments of a group; the whole block calls and gets them. */
__device__ inline Moments combineChunks(const Moments *chunks, int count, int64_t length) {
  const float values = static_cast<float>(length);
  const int threads = static_cast<int>(blockDim.x);
  float mean = 0;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += threads) {
    mean += chunks[i].mean * (static_cast<float>(chunkLength(i, length)) / values);
  }
  mean = reduceBlock(mean, Sum());
  float squares = 0;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += threads) {
    const float distance = chunks[i].mean - mean;
    squares += chunks[i].squares + static_cast<float>(chunkLength(i, length)) * distance * distance;
  }
  return {mean, reduceBlock(squares, Sum())};
}

/** Block (chunk of a plane, channel) writes its values. */
template <int V, typename T, bool Silu>
__global__ void __launch_bounds__(kMaxRowThreads)
    groupNormKernel(const T *x, T *y, GroupNormOperands op) {
  const int channel = static_cast<int>(blockIdx.y);
  const int group = channel / op.groupChannels;
  const int width = chunkLength(blockIdx.x, op.plane);
  const int64_t first = channel * op.plane + blockIdx.x * kMaxRowWidth;
  const Moments moments =
      combineChunks(op.chunks + int64_t{group} * op.groupChunks, op.groupChunks, op.groupLength);
  const float variance = moments.squares / static_cast<float>(op.groupLength);
  const float factor = 1.0f / sqrtf(variance + op.epsilon) * op.scale[channel];
  const float shift = op.shift[channel];
  for (int at = static_cast<int>(threadIdx.x) * V; at < width;
       at += static_cast<int>(blockDim.x) * V) {
    float vector[V];
    load(x + first + at, vector);
    for (int i = 0; i < V; i++) {
      const float n = (vector[i] - moments.mean) * factor + shift;
      vector[i] = Silu ? n / (1.0f + expf(-n)) : n;
    }
    store(y + first + at, vector);
  }
}

template <int V, typename T>
void groupNormOf(const fluxd_group_norm &op, cudaStream_t stream) {
  const auto x = static_cast<const T *>(op.x);
  const int64_t groupChannels = op.channels / op.groups, groupLength = groupChannels * op.plane;
  const int64_t groupChunks = ceilDiv(groupLength, kMaxRowWidth);
  expect(op.groups * groupChunks * static_cast<int64_t>(sizeof(Moments)) <=
             static_cast<int64_t>(kWorkspaceBytes),
         "Expected an image whose moments fit the workspace of GroupNorm");
  const auto chunks = static_cast<Moments *>(scratchOf(stream).workspace);
  launch(momentsKernel<V, T>, {groupChunks, op.groups, rowThreads(chunkLength(0, groupLength))},
         stream, x, chunks, groupLength);
  const auto kernel = op.silu ? groupNormKernel<V, T, true> : groupNormKernel<V, T, false>;
  launch(kernel,
         {ceilDiv(op.plane, kMaxRowWidth), op.channels, rowThreads(chunkLength(0, op.plane))},
         stream,
         x, static_cast<T *>(op.y),
         GroupNormOperands{op.scale, op.shift, chunks, op.plane, groupLength,
                           static_cast<int>(groupChannels), static_cast<int>(groupChunks),
                           op.epsilon});
}

}  // namespace

void groupNorm(const fluxd_group_norm &op, cudaStream_t stream) {
  expect(op.channels > 0 && op.plane > 0 && op.groups > 0 && op.channels % op.groups == 0,
         "Expected an image with channels in equal groups for GroupNorm");
  // Planes of whole vectors: then neither a channel nor a group begins inside one.
  const bool wide = op.plane % 8 == 0;
  if (op.dtype == FLUXD_F32) {
    return wide ? groupNormOf<8, float>(op, stream) : groupNormOf<1, float>(op, stream);
  }
  expect(op.dtype == FLUXD_F16, "Expected float32 or float16 for GroupNorm");
  wide ? groupNormOf<8, f16>(op, stream) : groupNormOf<1, f16>(op, stream);
}

}  // namespace fluxd::cuda
