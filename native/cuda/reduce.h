/* Sums and maxima over the threads of a group. The order is fixed, so results repeat exactly. */
#pragma once

#include <cuda_runtime.h>

namespace fluxd::cuda {

struct Sum {
  __device__ float operator()(float a, float b) const { return a + b; }
};

struct Max {
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

/** The combination over `Lanes` neighbouring lanes, a power of two; all lanes of the warp call. */
template <int Lanes, typename Combine>
__device__ inline float reduceLanes(float value, Combine combine) {
#pragma unroll
  for (int distance = Lanes / 2; distance > 0; distance /= 2) {
    value = combine(value, __shfl_xor_sync(0xffffffffu, value, distance));
  }
  return value;
}

/** The combination over a block of whole warps; every thread gets it. */
template <typename Combine>
__device__ inline float reduceBlock(float value, Combine combine) {
  __shared__ float partials[32];
  value = reduceLanes<32>(value, combine);
  // An earlier call's partials must have been read by all.
  __syncthreads();
  if (threadIdx.x % 32 == 0) partials[threadIdx.x / 32] = value;
  __syncthreads();
  value = partials[0];
  for (unsigned warp = 1; warp < blockDim.x / 32; warp++) value = combine(value, partials[warp]);
  return value;
}

}  // namespace fluxd::cuda
