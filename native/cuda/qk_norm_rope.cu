/*
 * RMS norm and rotation of q and k, copy of v, out of one fused projection; formula and shapes:
 * fluxd_qk_norm_rope in kernels.h.
 *
 * A unit is one head of one row of q, k or v. `Lanes` neighbouring threads share a unit; each keeps
 * `Vectors` vectors of V values, so a unit is read once. Pairs never straddle two threads.
 */
#include "launch.h"
#include "operators.h"
#include "reduce.h"
#include "vectors.h"

namespace fluxd::cuda {

namespace {

constexpr unsigned kThreads = 256;

struct RopeOperands {
  const bf16 *qkv, *qScale, *kScale;
  const float *cosines, *sines;
  bf16 *q, *k, *v;
  int64_t units;
  int heads, headDim;
  float epsilon;
};

/** Scales a vector and rotates its pairs by angles number first/2, first/2 + 1, … of the row. */
template <int V>
__device__ inline void rotate(float (&x)[V], float inverse, const bf16 *scales,
                              const float *cosines, const float *sines, int first) {
  float scale[V], cosine[V / 2], sine[V / 2];
  load(scales + first, scale);
  load(cosines + first / 2, cosine);
  load(sines + first / 2, sine);
#pragma unroll
  for (int i = 0; i < V / 2; i++) {
    const float even = x[2 * i] * inverse * scale[2 * i];
    const float odd = x[2 * i + 1] * inverse * scale[2 * i + 1];
    x[2 * i] = even * cosine[i] - odd * sine[i];
    x[2 * i + 1] = odd * cosine[i] + even * sine[i];
  }
}

template <int V, int Lanes, int Vectors>
__global__ void __launch_bounds__(kThreads) qkNormRopeKernel(RopeOperands op) {
  const int64_t thread = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  // Threads beyond the end work on the last unit and write nothing: reductions need whole warps.
  const bool inside = thread / Lanes < op.units;
  const int64_t unit = inside ? thread / Lanes : op.units - 1;
  const int lane = static_cast<int>(thread % Lanes);
  const int64_t row = unit / (3 * op.heads);
  const int part = static_cast<int>(unit / op.heads % 3);
  const int head = static_cast<int>(unit % op.heads);

  const bf16 *from = op.qkv + unit * op.headDim;
  float values[Vectors][V];
  float squares = 0;
#pragma unroll
  for (int j = 0; j < Vectors; j++) {
    const int first = (j * Lanes + lane) * V;
    if (first >= op.headDim) continue;
    load(from + first, values[j]);
#pragma unroll
    for (int i = 0; i < V; i++) squares += values[j][i] * values[j][i];
  }
  squares = reduceLanes<Lanes>(squares, Sum());
  if (!inside) return;

  const float inverse = 1.0f / sqrtf(squares / static_cast<float>(op.headDim) + op.epsilon);
  const int64_t angles = row * (op.headDim / 2);
  bf16 *to = (part == 0 ? op.q : part == 1 ? op.k : op.v) + (row * op.heads + head) * op.headDim;
#pragma unroll
  for (int j = 0; j < Vectors; j++) {
    const int first = (j * Lanes + lane) * V;
    if (first >= op.headDim) continue;
    if (part < 2) {
      rotate(values[j], inverse, part == 0 ? op.qScale : op.kScale, op.cosines + angles,
             op.sines + angles, first);
    }
    store(to + first, values[j]);
  }
}

}  // namespace

void qkNormRope(const fluxd_qk_norm_rope &op, cudaStream_t stream) {
  expectBf16(op.dtype, "QkNormRope");
  if (op.head_dim < 2 || op.head_dim > 256 || op.head_dim % 2 != 0 || op.heads < 1) {
    throw Failure(format("Expected heads of an even size up to 256 for QkNormRope but there are "
                         "%lld of size %lld",
                         static_cast<long long>(op.heads), static_cast<long long>(op.head_dim)));
  }
  if (op.rows == 0) return;
  const RopeOperands operands = {static_cast<const bf16 *>(op.qkv),
                                 static_cast<const bf16 *>(op.q_scale),
                                 static_cast<const bf16 *>(op.k_scale),
                                 op.cos,
                                 op.sin,
                                 static_cast<bf16 *>(op.q),
                                 static_cast<bf16 *>(op.k),
                                 static_cast<bf16 *>(op.v),
                                 op.rows * 3 * op.heads,
                                 static_cast<int>(op.heads),
                                 static_cast<int>(op.head_dim),
                                 op.epsilon};
  // Flux's heads are 128 wide: 16 lanes of 8 values. Other sizes take pairs.
  const bool flux = op.head_dim == 128;
  const int64_t lanes = flux ? 16 : 32;
  const auto kernel = flux ? qkNormRopeKernel<8, 16, 1> : qkNormRopeKernel<2, 32, 4>;
  launch(kernel, {ceilDiv<int64_t>(operands.units * lanes, kThreads), 1, kThreads}, stream,
         operands);
}

}  // namespace fluxd::cuda
