// speed REPORT.json: how fast the CUDA kernels are at the sizes of Flux.1, against what the card
// can do: a large matrix product and a large copy, measured here. Also what only a card can show:
// which products cuBLASLt does in one go, whether its first choice is its fastest, whether a
// captured graph gives the same bits, and what a switch between LoRAs takes. Times are in
// milliseconds.
#include "device.h"
#include "lt_api.h"
#include "speed.h"
#include "status.h"

namespace speed {

namespace {

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
  const fluxd_device &device = *openDevice(0);
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
  measureSwitches(device);
  std::fprintf(report, "\n}\n");
  std::fclose(report);
  expect(same, "Expected a captured graph to give the bits of the same operators run one by one");
}

}  // namespace

}  // namespace speed

int main(int count, char **arguments) {
  if (count != 2) {
    std::fprintf(stderr, "usage: %s REPORT.json\n", arguments[0]);
    return 2;
  }
  const int failed = fluxd::cuda::guarded([&] { speed::run(arguments[1]); });
  if (failed) std::fprintf(stderr, "%s\n", fluxd::cuda::lastError());
  return failed;
}
