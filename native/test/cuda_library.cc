// The weights' way over a CUDA library, real or emulated: FLUXD_CUDA_LIBRARY names its file.
// Without it there is nothing to test.
#include <dlfcn.h>

#include <cstdlib>
#include <memory>

#include "check.h"
#include "operands.h"
#include "weights/weight_set.h"

using namespace fluxd;

namespace {

constexpr int64_t rows = 70, width = 96;

// Null where no library is named.
const fluxd_device *openLibrary() {
  const char *path = std::getenv("FLUXD_CUDA_LIBRARY");
  if (!path) return nullptr;
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) throw std::runtime_error(dlerror());
  auto open = reinterpret_cast<decltype(&fluxd_cuda_library)>(dlsym(library, "fluxd_cuda_library"));
  const fluxd_device *device = nullptr;
  const char *error = "";
  if (open(0, &device, &error) != 0) throw std::runtime_error(error);
  return device;
}

template <typename T>
std::vector<T> download(const fluxd_device &device, const void *values, size_t count) {
  std::vector<T> host(count);
  Stream stream(device);
  check(device, device.download(device.context, host.data(), values, count * sizeof(T),
                                stream.get()));
  stream.synchronize();
  return host;
}

Doubles valuesOf(const fluxd_device &device, const Weight &weight) {
  Doubles values;
  if (weight.dtype == FLUXD_BF16) {
    for (auto value : download<Bf16>(device, weight.values, rows * width))
      values.push_back(toFloat(value));
    return values;
  }
  const auto scales = download<float>(device, weight.scale, rows);
  const auto codes = download<E4m3>(device, weight.values, rows * width);
  for (int64_t i = 0; i < rows * width; i++)
    values.push_back(double(toFloat(codes[i])) * scales[i / width]);
  return values;
}

std::unique_ptr<WeightSet> upload(const fluxd_device &device, const Operand<float> &values,
                                  fluxd_dtype dtype) {
  const WeightPart part = {"", 0, values.stored.data(), rows, StoredDtype::f32, 1};
  const std::vector<WeightSource> sources = {{"w", {rows, width}, dtype, {part}}};
  return std::make_unique<WeightSet>(device, sources, BasePlace::files, UploadOptions{2, 5000});
}

}  // namespace

// Observed after merging, with the emulated library: 0 in bfloat16 and 6e-8 in e4m3. Sums in
// another order may fall on the other side of a rounding border.
TEST("a CUDA library uploads, quantises, merges and restores as the CPU does") {
  const fluxd_device *cuda = openLibrary();
  if (!cuda) return;
  CHECK(cuda->abi_version == FLUXD_ABI_VERSION);
  const fluxd_device &cpu = *fluxd_cpu_device();
  constexpr int64_t begin = 20, count = 40, rank = 4;
  std::mt19937 random(9);
  const auto values = randomOperand<float>(random, rows * width);
  const auto up = randomOperand<float>(random, count * rank);
  const auto down = randomOperand<float>(random, rank * width);
  const LowRankChange change = {"w", begin, count, rank, up.stored.data(), down.stored.data()};
  for (auto dtype : {FLUXD_BF16, FLUXD_E4M3}) {
    auto ours = upload(cpu, values, dtype), theirs = upload(*cuda, values, dtype);
    const auto before = valuesOf(*cuda, theirs->at("w"));
    CHECK(before == valuesOf(cpu, ours->at("w")));
    ours->merge({change}), theirs->merge({change});
    const auto got = valuesOf(*cuda, theirs->at("w")), want = valuesOf(cpu, ours->at("w"));
    CHECK(got != before);
    CHECK_CLOSE(relativeError(std::vector<float>(got.begin(), got.end()), want), 0, 2e-3);
    // Half as much by a scale, and again by factors that were staged: the same bits.
    theirs->rescale({std::vector<float>(rank, 0.5f)});
    const auto half = valuesOf(*cuda, theirs->at("w"));
    CHECK(half != got);
    auto halved = change;
    const std::vector<float> scale(rank, 0.5f);
    halved.scale = scale.data();
    theirs->stage({halved});
    CHECK(valuesOf(*cuda, theirs->at("w")) == half);
    theirs->merge({});
    theirs->swap();
    CHECK(valuesOf(*cuda, theirs->at("w")) == half);
    theirs->merge({});
    CHECK(valuesOf(*cuda, theirs->at("w")) == before);
  }
}
