/*
 * Memory that operators need besides their operands, one set per stream: what runs on a stream runs
 * in order, so successive operators share it. It is allocated at a stream's first call, never
 * later, because a stream that is being captured into a graph must not allocate.
 */
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

namespace fluxd::cuda {

// What cuBLASLt may use on Hopper, as NVIDIA recommends for it; GroupNorm's moments fit in, too.
constexpr size_t kWorkspaceBytes = size_t{32} << 20;
// One product of 4608 tokens × 3072: those of Flux at 1024×1024 fit at once.
constexpr size_t kProductBytes = size_t{32} << 20;

struct Scratch {
  void *workspace;  // kWorkspaceBytes
  void *product;    // kProductBytes
};

/** The scratch of `stream`. Throws if it must be allocated while the stream is captured. */
Scratch scratchOf(cudaStream_t stream);

/** Frees the scratch of a stream that ends. */
void releaseScratch(cudaStream_t stream);

}  // namespace fluxd::cuda
