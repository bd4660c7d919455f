// speed REPORT.json: how fast the CUDA kernels are at the sizes of Flux.1, beside what the card can
// do: a large matrix product and a large copy, measured here. Also what only a card can tell: which
// products cuBLASLt does in one go, whether its first choice is its fastest, and whether a captured
// graph gives the same bits.
//
// Linked with the kernels themselves, because it looks at plans. Times are medians of single
// launches between events, each with nothing of its operands in the L2 cache, in milliseconds.
#include "device.h"
#include "launch.h"
#include "matmul.h"
#include "operators.h"
#include "scratch.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <vector>

using namespace fluxd::cuda;

namespace {

constexpr int64_t kHidden = 3072, kMlp = 4 * kHidden, kHeads = 24, kHeadDim = 128;
constexpr int64_t kTxt = 512, kImg = 4096, kTokens = kTxt + kImg;
constexpr int64_t kDouble = 19, kSingle = 38;
constexpr int64_t kRank = 16;

cudaStream_t stream;

// --- memory with random values

__global__ void fillBf16(bf16 *to, int64_t count, float spread, float mean, unsigned seed) {
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * blockDim.x) {
    uint64_t h = (static_cast<uint64_t>(i) + seed) * 0x9e3779b97f4a7c15u;
    h = (h ^ h >> 29) * 0xbf58476d1ce4e5b9u;
    // A sum of two uniform numbers: enough of a bell.
    const float u = static_cast<float>(h & 0xffffff) / 0x1p24f;
    const float v = static_cast<float>(h >> 40) / 0x1p24f;
    to[i] = toBf16(mean + spread * 2.449f * (u + v - 1));
  }
}

__global__ void widen(const bf16 *from, float *to, int64_t count) {
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * blockDim.x) {
    to[i] = toFloat(from[i]);
  }
}

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

Buffer<bf16> randomBf16(int64_t count, float spread = 1, float mean = 0) {
  static unsigned seed = 1;
  auto buffer = allocate<bf16>(count);
  fillBf16<<<1024, 256, 0, stream>>>(buffer.get(), count, spread, mean, seed++ * 7919);
  FLUXD_CHECK(cudaGetLastError());
  return buffer;
}

Buffer<float> randomFloats(int64_t count, float spread = 1, float mean = 0) {
  const auto narrow = randomBf16(count, spread, mean);
  auto buffer = allocate<float>(count);
  widen<<<1024, 256, 0, stream>>>(narrow.get(), buffer.get(), count);
  FLUXD_CHECK(cudaStreamSynchronize(stream));
  return buffer;
}

// --- time

// Several times the L2 cache of any card.
constexpr size_t kFlushBytes = size_t{512} << 20;

double medianMs(const std::function<void()> &enqueue, int repeats = 20) {
  static const auto flush = allocate<char>(kFlushBytes);
  cudaEvent_t begin, end;
  FLUXD_CHECK(cudaEventCreate(&begin));
  FLUXD_CHECK(cudaEventCreate(&end));
  for (int i = 0; i < 3; i++) enqueue();
  std::vector<float> times;
  for (int i = 0; i < repeats; i++) {
    FLUXD_CHECK(cudaMemsetAsync(flush.get(), i, kFlushBytes, stream));
    FLUXD_CHECK(cudaEventRecord(begin, stream));
    enqueue();
    FLUXD_CHECK(cudaEventRecord(end, stream));
    FLUXD_CHECK(cudaEventSynchronize(end));
    float ms;
    FLUXD_CHECK(cudaEventElapsedTime(&ms, begin, end));
    times.push_back(ms);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
  return times[times.size() / 2];
}

// --- report

FILE *report;
const char *separator = "";
double copyBytesPerMs, matmulFlopsPerMs;

void begin(const char *list) {
  std::fprintf(report, ",\n  \"%s\": [", list);
  separator = "\n";
}
void end() { std::fprintf(report, "\n  ]"); }

// One measured operator. `flops` 0: bound by memory.
void entry(const std::string &name, double ms, double flops, double bytes) {
  const double share = flops > 0 ? flops / ms / matmulFlopsPerMs : bytes / ms / copyBytesPerMs;
  std::fprintf(report,
               "%s    { \"name\": \"%s\", \"ms\": %.4f, \"tflops\": %.1f, \"gb_per_s\": %.0f, "
               "\"share_of_ceiling\": %.3f }",
               separator, name.c_str(), ms, flops / ms / 1e9, bytes / ms / 1e6, share);
  std::printf("%-44s %9.4f ms %8.1f TFLOP/s %7.0f GB/s %5.1f %%\n", name.c_str(), ms,
              flops / ms / 1e9, bytes / ms / 1e6, 100 * share);
  separator = ",\n";
}

// --- what is measured

struct LayerSize {
  const char *name;
  int64_t rows, in, out;
  fluxd_epilogue epilogue;
};

const LayerSize kLayers[] = {
    {"img qkv", kImg, kHidden, 3 * kHidden, FLUXD_EPILOGUE_NONE},
    {"img proj, gated", kImg, kHidden, kHidden, FLUXD_EPILOGUE_GATED},
    {"img mlp in, gelu", kImg, kHidden, kMlp, FLUXD_EPILOGUE_GELU},
    {"img mlp out, gated", kImg, kMlp, kHidden, FLUXD_EPILOGUE_GATED},
    {"txt qkv", kTxt, kHidden, 3 * kHidden, FLUXD_EPILOGUE_NONE},
    {"txt mlp in, gelu", kTxt, kHidden, kMlp, FLUXD_EPILOGUE_GELU},
    {"single qkv", kTokens, kHidden, 3 * kHidden, FLUXD_EPILOGUE_NONE},
    {"single mlp in, gelu", kTokens, kHidden, kMlp, FLUXD_EPILOGUE_GELU},
    {"single out, gated", kTokens, kHidden + kMlp, kHidden, FLUXD_EPILOGUE_GATED},
};

double flopsOf(const LayerSize &l) { return 2.0 * l.rows * l.in * l.out; }

void measureCeilings() {
  constexpr int64_t n = 8192;
  const auto x = randomBf16(n * n), w = randomBf16(n * n, 0.01f);
  const auto y = allocate<bf16>(n * n);
  const fluxd_linear op = {n, n, n, FLUXD_BF16, FLUXD_EPILOGUE_NONE, x.get(), w.get(),
                           nullptr, nullptr, nullptr, y.get()};
  const double product = medianMs([&] { linear(op, stream); });
  matmulFlopsPerMs = 2.0 * n * n * n / product;
  constexpr int64_t bytes = int64_t{2} << 30;
  const auto from = randomBf16(bytes / 2), to = allocate<bf16>(bytes / 2);
  const double copy = medianMs([&] {
    FLUXD_CHECK(cudaMemcpyAsync(to.get(), from.get(), bytes, cudaMemcpyDeviceToDevice, stream));
  });
  copyBytesPerMs = 2.0 * bytes / copy;
  std::fprintf(report,
               ",\n  \"ceilings\": { \"bf16_matmul_8192_tflops\": %.1f, \"copy_gb_per_s\": %.0f }",
               matmulFlopsPerMs / 1e9, copyBytesPerMs / 1e6);
}

struct LayerOperands {
  Buffer<bf16> x, weight, bias, residual, y;
  Buffer<float> gate, xScale, weightScale;
  Buffer<e4m3> x8, weight8;

  explicit LayerOperands(const LayerSize &l)
      : x(randomBf16(l.rows * l.in)),
        weight(randomBf16(l.out * l.in, 1 / std::sqrt(static_cast<float>(l.in)))),
        bias(randomBf16(l.out)),
        residual(randomBf16(l.rows * l.out)),
        y(allocate<bf16>(l.rows * l.out)),
        gate(randomFloats(l.out)),
        xScale(allocate<float>(l.rows)),
        weightScale(allocate<float>(l.out)),
        x8(allocate<e4m3>(l.rows * l.in)),
        weight8(allocate<e4m3>(l.out * l.in)) {
    quantizeRows({l.rows, l.in, FLUXD_BF16, x.get(), x8.get(), xScale.get()}, stream);
    quantizeRows({l.out, l.in, FLUXD_BF16, weight.get(), weight8.get(), weightScale.get()},
                 stream);
  }
};

void measureLinears() {
  begin("linears");
  for (const auto &l : kLayers) {
    const LayerOperands o(l);
    const fluxd_linear op = {l.rows, l.in, l.out, FLUXD_BF16, l.epilogue, o.x.get(),
                             o.weight.get(), o.bias.get(), o.gate.get(), o.residual.get(),
                             o.y.get()};
    entry(std::string("bf16 ") + l.name, medianMs([&] { linear(op, stream); }), flopsOf(l), 0);
    const fluxd_fp8_linear fp8 = {l.rows, l.in, l.out, FLUXD_BF16, l.epilogue, o.x8.get(),
                                  o.xScale.get(), o.weight8.get(), o.weightScale.get(),
                                  o.bias.get(), o.gate.get(), o.residual.get(), o.y.get()};
    entry(std::string("e4m3 ") + l.name, medianMs([&] { fp8Linear(fp8, stream); }), flopsOf(l), 0);
  }
  end();
}

// The product alone by each algorithm, and what cuBLASLt can do with it.
void measureAlgorithms() {
  begin("algorithms");
  for (const auto &l : kLayers) {
    const LayerOperands o(l);
    for (bool fp8 : {false, true}) {
      const MatmulOperands operands = {
          fp8 ? static_cast<const void *>(o.x8.get()) : o.x.get(),
          fp8 ? static_cast<const void *>(o.weight8.get()) : o.weight.get(),
          o.bias.get(), fp8 ? o.xScale.get() : nullptr, fp8 ? o.weightScale.get() : nullptr,
          o.y.get()};
      const MatmulShape shape = {l.rows, l.in, l.out, fp8, fp8, true,
                                 l.epilogue == FLUXD_EPILOGUE_GELU, 256};
      const auto plan = planOf(shape, operands);
      std::string times;
      double first = 0, best = 0;
      for (int i = 0; plan && i < algorithmCount(*plan); i++) {
        const double ms = medianMs([&] { runMatmul(*plan, operands, stream, i); }, 10);
        if (i == 0) first = best = ms;
        best = std::min(best, ms);
        times += (i ? ", " : "") + std::to_string(ms);
      }
      std::fprintf(report,
                   "%s    { \"name\": \"%s %s\", \"in_one_go\": %s, \"first_over_best\": %.3f, "
                   "\"ms\": [%s] }",
                   separator, fp8 ? "e4m3" : "bf16", l.name, plan ? "true" : "false",
                   plan ? first / best : 0, times.c_str());
      std::printf("%s %-24s in one go: %s, first/best %.3f\n", fp8 ? "e4m3" : "bf16", l.name,
                  plan ? "yes" : "no", plan ? first / best : 0);
      separator = ",\n";
    }
  }
  end();
}

void measureRowKernels() {
  begin("row_kernels");
  const auto x = randomBf16(kTokens * (kHidden + kMlp)), y = allocate<bf16>(kTokens * kHidden);
  const auto scale = randomFloats(kHidden, 0.3f, 1), shift = randomFloats(kHidden);
  const auto y8 = allocate<e4m3>(kTokens * (kHidden + kMlp));
  const auto yScale = allocate<float>(kTokens);
  const double values = static_cast<double>(kTokens) * kHidden;

  fluxd_modulated_norm norm = {kTokens, kHidden, FLUXD_BF16, FLUXD_BF16, 1e-6f, x.get(),
                               scale.get(), shift.get(), y.get(), nullptr};
  entry("modulated_norm bf16", medianMs([&] { modulatedNorm(norm, stream); }), 0, 4 * values);
  norm.y_dtype = FLUXD_E4M3, norm.y = y8.get(), norm.y_scale = yScale.get();
  entry("modulated_norm e4m3", medianMs([&] { modulatedNorm(norm, stream); }), 0, 3 * values);
  for (int64_t width : {kHidden, kMlp, kHidden + kMlp}) {
    const fluxd_quantize_rows op = {kTokens, width, FLUXD_BF16, x.get(), y8.get(), yScale.get()};
    entry("quantize_rows " + std::to_string(width), medianMs([&] { quantizeRows(op, stream); }), 0,
          3.0 * kTokens * width);
  }

  const auto qkv = randomBf16(kTokens * 3 * kHidden), heads = randomBf16(kHeadDim, 0.3f, 1);
  const auto angles = randomFloats(kTokens * kHeadDim / 2);
  const auto q = allocate<bf16>(3 * kTokens * kHidden);
  bf16 *k = q.get() + kTokens * kHidden, *v = k + kTokens * kHidden;
  const fluxd_qk_norm_rope rope = {kTokens, kHeads, kHeadDim, FLUXD_BF16, 1e-6f, qkv.get(),
                                   heads.get(), heads.get(), angles.get(), angles.get(), q.get(),
                                   k, v};
  entry("qk_norm_rope", medianMs([&] { qkNormRope(rope, stream); }), 0, 12 * values);
  end();
}

// The widest pictures of the decoder at 1024×1024, and its latents. Two reads and a write.
void measureGroupNorm() {
  begin("group_norm");
  const int64_t sizes[][2] = {{128, 1024 * 1024}, {256, 1024 * 1024}, {512, 512 * 512}, {512, 128 * 128}};
  constexpr int64_t values = 256 * 1024 * 1024;
  const auto x = randomFloats(values), y = allocate<float>(values);
  const auto scale = randomFloats(512, 0.3f, 1), shift = randomFloats(512);
  for (const auto &[channels, plane] : sizes) {
    for (const bool half : {false, true}) {
      // As float16 the bits are other numbers, of which some are not finite: time does not care.
      const fluxd_group_norm op = {channels, 32, plane, half ? FLUXD_F16 : FLUXD_F32, 1, 1e-6f,
                                   x.get(), scale.get(), shift.get(), y.get()};
      entry("group_norm silu " + std::to_string(channels) + "×" + std::to_string(plane) +
                (half ? " float16" : " float32"),
            medianMs([&] { groupNorm(op, stream); }), 0,
            3.0 * (half ? 2 : 4) * static_cast<double>(channels * plane));
    }
  }
  end();
}

// --- merging: every linear weight of the transformer

struct WeightSize {
  int64_t out, in;
  bool quantized;
};

std::vector<WeightSize> fluxWeights() {
  std::vector<WeightSize> sizes;
  for (int64_t i = 0; i < 2 * kDouble; i++) {
    sizes.insert(sizes.end(), {{6 * kHidden, kHidden, false}, {3 * kHidden, kHidden, true},
                               {kHidden, kHidden, true}, {kMlp, kHidden, true},
                               {kHidden, kMlp, true}});
  }
  for (int64_t i = 0; i < kSingle; i++) {
    sizes.insert(sizes.end(), {{3 * kHidden, kHidden, false}, {3 * kHidden + kMlp, kHidden, true},
                               {kHidden, kHidden + kMlp, true}});
  }
  return sizes;
}

void measureMerge() {
  begin("merge");
  const auto sizes = fluxWeights();
  int64_t values = 0, largest = 0;
  for (const auto &s : sizes) {
    values += s.out * s.in;
    largest = std::max(largest, std::max(s.out, s.in) * kRank);
  }
  const auto base = randomBf16(values, 0.02f), merged = allocate<bf16>(values);
  const auto up = randomFloats(largest, 0.01f), down = randomFloats(largest);
  const auto scale = allocate<float>(3 * kHidden + kMlp);
  for (bool fp8 : {false, true}) {
    const double ms = medianMs([&] {
      int64_t at = 0;
      for (const auto &s : sizes) {
        const bool quantized = fp8 && s.quantized;
        merge({s.out, s.in, kRank, FLUXD_BF16, quantized ? FLUXD_E4M3 : FLUXD_BF16,
               base.get() + at, up.get(), down.get(), merged.get() + at,
               quantized ? scale.get() : nullptr, nullptr},
              stream);
        at += s.out * s.in;
      }
    }, 5);
    double bytes = 0;
    for (const auto &s : sizes) {
      bytes += static_cast<double>(s.out * s.in) * (fp8 && s.quantized ? 5 : 4);
    }
    entry(std::string("all weights, rank 16, ") + (fp8 ? "e4m3" : "bf16"), ms, 0, bytes);
  }
  end();
}

// --- a captured graph

bool graphRepeatsBits() {
  const LayerSize l = {"", kTxt, kHidden, kHidden, FLUXD_EPILOGUE_GATED};
  const LayerOperands o(l);
  const auto scale = randomFloats(kHidden, 0.3f, 1);
  const auto normed = allocate<bf16>(l.rows * l.in);
  const auto enqueue = [&] {
    modulatedNorm({l.rows, l.in, FLUXD_BF16, FLUXD_BF16, 1e-6f, o.x.get(), scale.get(),
                   o.gate.get(), normed.get(), nullptr},
                  stream);
    linear({l.rows, l.in, l.out, FLUXD_BF16, l.epilogue, normed.get(), o.weight.get(),
            o.bias.get(), o.gate.get(), o.residual.get(), o.y.get()},
           stream);
  };
  const auto bits = [&] {
    std::vector<uint16_t> host(static_cast<size_t>(l.rows * l.out));
    FLUXD_CHECK(cudaMemcpyAsync(host.data(), o.y.get(), host.size() * 2, cudaMemcpyDeviceToHost,
                                stream));
    FLUXD_CHECK(cudaStreamSynchronize(stream));
    return host;
  };
  enqueue();
  const auto eager = bits();
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  FLUXD_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  enqueue();
  FLUXD_CHECK(cudaStreamEndCapture(stream, &graph));
  FLUXD_CHECK(cudaGraphInstantiate(&executable, graph, 0));
  FLUXD_CHECK(cudaMemsetAsync(o.y.get(), 0xff, eager.size() * 2, stream));
  FLUXD_CHECK(cudaGraphLaunch(executable, stream));
  const bool same = bits() == eager;
  FLUXD_CHECK(cudaGraphExecDestroy(executable));
  FLUXD_CHECK(cudaGraphDestroy(graph));
  return same;
}

void describeCard() {
  cudaDeviceProp card;
  int driver, runtime;
  FLUXD_CHECK(cudaGetDeviceProperties(&card, 0));
  FLUXD_CHECK(cudaDriverGetVersion(&driver));
  FLUXD_CHECK(cudaRuntimeGetVersion(&runtime));
  std::fprintf(report,
               "{\n  \"card\": \"%s\", \"multiprocessors\": %d, \"memory_gb\": %.1f,\n"
               "  \"driver\": %d, \"cudart\": %d, \"cublaslt\": %zu",
               card.name, card.multiProcessorCount, static_cast<double>(card.totalGlobalMem) / 1e9,
               driver, runtime, lt::api().GetVersion());
}

void run(const char *path) {
  report = std::fopen(path, "w");
  expect(report != nullptr, "Expected to write the report");
  openDevice(0);
  FLUXD_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  describeCard();
  measureCeilings();
  measureLinears();
  measureRowKernels();
  measureGroupNorm();
  const bool same = graphRepeatsBits();
  std::fprintf(report, ",\n  \"graph_repeats_bits\": %s", same ? "true" : "false");
  measureAlgorithms();
  measureMerge();
  std::fprintf(report, "\n}\n");
  std::fclose(report);
  expect(same, "Expected a captured graph to give the bits of the same operators run one by one");
}

}  // namespace

int main(int count, char **arguments) {
  if (count != 2) {
    std::fprintf(stderr, "usage: %s REPORT.json\n", arguments[0]);
    return 2;
  }
  const int failed = guarded([&] { run(arguments[1]); });
  if (failed) std::fprintf(stderr, "%s\n", lastError());
  return failed;
}
