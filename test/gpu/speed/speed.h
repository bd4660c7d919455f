// What the measurements have in common: random operands, times, the report, and the sizes of Flux.1
// at 1024×1024. Linked with the kernels themselves, because some look at plans.
#pragma once
#include "operators.h"
#include "dtype_convert.h"

#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace speed {

using namespace fluxd::cuda;

constexpr int64_t kHidden = 3072, kMlp = 4 * kHidden, kHeads = 24, kHeadDim = 128;
constexpr int64_t kTxt = 512, kSchnellTxt = 256, kImg = 4096, kTokens = kTxt + kImg;
constexpr int64_t kDouble = 19, kSingle = 38;
constexpr int64_t kRank = 16;

// Of the one device; from main.cu.
extern cudaStream_t stream;

// --- memory with random values

struct Free {
  void operator()(void *memory) const { cudaFree(memory); }
};
template <typename T>
using Buffer = std::unique_ptr<T, Free>;

template <typename T>
Buffer<T> allocate(int64_t count) {
  void *memory = nullptr;
  FLUXD_CHECK(cudaMalloc(&memory, static_cast<size_t>(count) * sizeof(T)));
  return Buffer<T>(static_cast<T *>(memory));
}

Buffer<bf16> randomBf16(int64_t count, float spread = 1, float mean = 0);
Buffer<float> randomFloats(int64_t count, float spread = 1, float mean = 0);

// --- time and report

/** Of single launches between events, with nothing of their operands in the L2 cache. */
double medianMs(const std::function<void()> &enqueue, int repeats = 20);

extern FILE *report;
extern const char *separator;
extern double copyBytesPerMs, matmulFlopsPerMs;

/** Entries go into a list of this name until `end`. */
void begin(const char *list);
void end();

/** One measured operator. `flops` 0: bound by memory. */
void entry(const std::string &name, double ms, double flops, double bytes);

// --- linear layers

struct LayerSize {
  const char *name;
  int64_t rows, in, out;
  fluxd_epilogue epilogue;
};

inline const LayerSize kLayers[] = {
    {"img qkv", kImg, kHidden, 3 * kHidden, FLUXD_EPILOGUE_NONE},
    {"img proj, gated", kImg, kHidden, kHidden, FLUXD_EPILOGUE_GATED},
    {"img mlp in, gelu", kImg, kHidden, kMlp, FLUXD_EPILOGUE_GELU},
    {"img mlp out, gated", kImg, kMlp, kHidden, FLUXD_EPILOGUE_GATED},
    {"txt qkv", kTxt, kHidden, 3 * kHidden, FLUXD_EPILOGUE_NONE},
    {"txt mlp in, gelu", kTxt, kHidden, kMlp, FLUXD_EPILOGUE_GELU},
    {"txt mlp out, gated", kTxt, kMlp, kHidden, FLUXD_EPILOGUE_GATED},
    {"schnell txt mlp out, gated", kSchnellTxt, kMlp, kHidden, FLUXD_EPILOGUE_GATED},
    {"single qkv", kTokens, kHidden, 3 * kHidden, FLUXD_EPILOGUE_NONE},
    {"single mlp in, gelu", kTokens, kHidden, kMlp, FLUXD_EPILOGUE_GELU},
    {"single out, gated", kTokens, kHidden + kMlp, kHidden, FLUXD_EPILOGUE_GATED},
};

struct LayerOperands {
  Buffer<bf16> x, weight, bias, residual, y;
  Buffer<float> gate, xScale, weightScale;
  Buffer<e4m3> x8, weight8;

  explicit LayerOperands(const LayerSize &l);
};

// --- weights

struct WeightSize {
  int64_t out, in;
  bool quantized;
};

/** Every linear weight of the transformer's blocks, as the fused graph has them. */
std::vector<WeightSize> fluxWeights();

// --- what is measured

/** A large matrix product and a large copy: what all else is compared with. */
void measureCeilings();
void measureLinears();
/** The product alone by each algorithm, and what cuBLASLt can do with it. */
void measureAlgorithms();
void measureRowKernels();
void measureGroupNorm();
/** The kernel alone, over every linear weight of the transformer. */
void measureMerge();
/** From one LoRA to another, with the upload of its factors. */
void measureSwitches(const fluxd_device &device);
/** Whether a captured graph gives the bits of the same operators run one by one. */
bool graphRepeatsBits();

}  // namespace speed
