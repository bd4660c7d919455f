/*
 * A stand-in for CUDA's own header, with which g++ compiles the kernels of this folder and runs
 * them on the CPU, grid, block, warp and all. It has what these kernels and their host code use
 * and is for tests: it finds wrong indices, missing guards and barriers, not wrong performance.
 *
 * Every CUDA thread is a fiber. A warp's fibers run one after the other up to the next shuffle, a
 * block's warps one after the other up to the next barrier, and blocks one after the other. A
 * thread that misses a barrier, or a lane that has left when its warp shuffles, ends the process
 * with a message.
 */
#pragma once

#include <math.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>

#define __host__
#define __device__
#define __global__
#define __shared__ static  // blocks run one at a time
#define __launch_bounds__(...)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

// Of the running fiber.
extern dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

/** Runs `kernel` once for each thread of the grid. */
void runGrid(dim3 grid, dim3 block, const std::function<void()> &kernel);

void waitForBlock();
/** The 32 bits that the lane at `lane ^ distance` of this warp brought to the same shuffle. */
uint32_t exchange(uint32_t bits, int distance);

}  // namespace emulation

inline void __syncthreads() { emulation::waitForBlock(); }

inline float __shfl_xor_sync(unsigned, float value, int distance) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  bits = emulation::exchange(bits, distance);
  memcpy(&value, &bits, sizeof bits);
  return value;
}

inline unsigned atomicMax(unsigned *address, unsigned value) {
  const unsigned old = *address;
  if (value > old) *address = value;
  return old;
}

// --- the runtime: device memory is host memory, every stream runs at once

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorMemoryAllocation = 2,
  cudaErrorStreamCaptureUnsupported = 900
};
struct CUstream_st;
using cudaStream_t = CUstream_st *;
struct CUevent_st;
using cudaEvent_t = CUevent_st *;
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};
enum cudaMemcpyKind {
  cudaMemcpyHostToDevice,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice,
  cudaMemcpyDefault
};
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone, cudaStreamCaptureStatusActive };
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal, cudaStreamCaptureModeRelaxed = 2 };
enum cudaDeviceAttr { cudaDevAttrComputeCapabilityMajor };
enum : unsigned { cudaHostAllocPortable, cudaStreamNonBlocking, cudaEventDisableTiming };

const char *cudaGetErrorName(cudaError_t);
const char *cudaGetErrorString(cudaError_t);
cudaError_t cudaGetLastError();
cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaSetDevice(int ordinal);
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr, int ordinal);
cudaError_t cudaMemGetInfo(size_t *free, size_t *total);
cudaError_t cudaMalloc(void **address, size_t bytes);
cudaError_t cudaFree(void *address);
cudaError_t cudaHostAlloc(void **address, size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void *address);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind, cudaStream_t);
cudaError_t cudaMemcpy2DAsync(void *to, size_t toStride, const void *from, size_t fromStride,
                              size_t width, size_t rows, cudaMemcpyKind, cudaStream_t);
cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *, unsigned flags);
cudaError_t cudaStreamSynchronize(cudaStream_t);
cudaError_t cudaStreamDestroy(cudaStream_t);
cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus *);
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode *);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *, unsigned flags);
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t);
cudaError_t cudaEventSynchronize(cudaEvent_t);
cudaError_t cudaEventDestroy(cudaEvent_t);

template <typename... Parameters>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(Parameters...),
                               Parameters... arguments) {
  emulation::runGrid(config->gridDim, config->blockDim, [=] { kernel(arguments...); });
  return cudaSuccess;
}
