#include "speed.h"
#include "status.h"

#include <algorithm>
#include <vector>

namespace speed {

cudaStream_t stream;
FILE *report;
const char *separator = "";
double copyBytesPerMs, matmulFlopsPerMs;

namespace {

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

}  // namespace

Buffer<bf16> randomBf16(int64_t count, float spread, float mean) {
  static unsigned seed = 1;
  auto buffer = allocate<bf16>(count);
  fillBf16<<<1024, 256, 0, stream>>>(buffer.get(), count, spread, mean, seed++ * 7919);
  FLUXD_CHECK(cudaGetLastError());
  return buffer;
}

Buffer<float> randomFloats(int64_t count, float spread, float mean) {
  const auto narrow = randomBf16(count, spread, mean);
  auto buffer = allocate<float>(count);
  widen<<<1024, 256, 0, stream>>>(narrow.get(), buffer.get(), count);
  FLUXD_CHECK(cudaStreamSynchronize(stream));
  return buffer;
}

// Several times the L2 cache of any card.
static constexpr size_t kFlushBytes = size_t{512} << 20;

double medianMs(const std::function<void()> &enqueue, int repeats) {
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

void begin(const char *list) {
  std::fprintf(report, ",\n  \"%s\": [", list);
  separator = "\n";
}
void end() { std::fprintf(report, "\n  ]"); }

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

}  // namespace speed
