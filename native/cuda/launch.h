/* Launching kernels, and the arithmetic of grids. */
#pragma once

#include "status.h"

#include <cstdint>

namespace fluxd::cuda {

template <typename Integer>
constexpr Integer ceilDiv(Integer a, Integer b) {
  return (a + b - 1) / b;
}

// Limits of a grid: its first axis, its other axes.
constexpr int64_t kMaxGridX = INT32_MAX;
constexpr int64_t kMaxGridY = 65535;

struct Geometry {
  int64_t blocksX, blocksY;
  unsigned threads;
};

/** Enqueues kernel(arguments…). Throws if the grid is too large or the launch is refused. */
template <typename... Parameters>
void launch(void (*kernel)(Parameters...), const Geometry &geometry, cudaStream_t stream,
            Parameters... arguments) {
  if (geometry.blocksX > kMaxGridX || geometry.blocksY > kMaxGridY) {
    throw Failure(format("Expected a grid of at most %lld×%lld blocks but it is %lld×%lld",
                         static_cast<long long>(kMaxGridX), static_cast<long long>(kMaxGridY),
                         static_cast<long long>(geometry.blocksX),
                         static_cast<long long>(geometry.blocksY)));
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(geometry.blocksX),
                        static_cast<unsigned>(geometry.blocksY), 1);
  config.blockDim = dim3(geometry.threads, 1, 1);
  config.stream = stream;
  check(cudaLaunchKernelEx(&config, kernel, arguments...), "launch a kernel");
}

}  // namespace fluxd::cuda
