// kernels LIBRARY REPORT.json [full]: every operator of libfluxd_cuda.so against its CPU twin, on
// random operands. `full` adds sizes of Flux.1, which take the twins some seconds.
//
// The library may also be the emulated one (native/cuda/emulation), so this program itself is
// tested where there is no GPU.
#include "cases.h"

#include <dlfcn.h>

namespace gpu {

const fluxd_device *cuda;
std::mt19937 randomness(7);

namespace {

struct Result {
  std::string name;
  double error, tolerance;
};

std::vector<Result> results;

}  // namespace

void measure(const std::string &name, double tolerance, const std::function<double()> &body) {
  Result result = {name, INFINITY, tolerance};
  std::string message;
  try {
    result.error = body();
  } catch (const std::exception &error) {
    message = ": " + std::string(error.what());
  }
  const bool ok = result.error <= tolerance;
  std::printf("%s %-64s %.2e%s\n", ok ? "ok  " : "FAIL", name.c_str(), result.error,
              message.c_str());
  results.push_back(result);
}

fluxd_queue pool() {
  static const fluxd_queue made = [] {
    fluxd_queue queue = nullptr;
    checkTwin(fluxd_cpu_device()->create_stream(fluxd_cpu_device()->context, &queue));
    return queue;
  }();
  return made;
}

std::string named(const char *op, std::initializer_list<int64_t> sizes, const std::string &rest) {
  std::string name = op;
  for (int64_t size : sizes) name += " " + std::to_string(size);
  return name + " " + rest;
}

namespace {

// The failing call must say `words`.
void refuses(const std::string &name, const std::string &words, const std::function<int()> &call) {
  measure("refuses " + name, 0, [&] {
    expect(call() != 0, "a failure");
    const std::string said = cuda->kernels->last_error();
    expect(said.find(words) != std::string::npos, "\"" + words + "\" in \"" + said + "\"");
    return 0.0;
  });
}

}  // namespace

void checkRefusals() {
  Device on(*cuda);
  fluxd_linear linear = {1, 8, 8, FLUXD_F32, FLUXD_EPILOGUE_NONE, {}, {}, {}, {}, {}, {}, {}, 0};
  refuses("float32", "Expected bf16 tensors for Linear",
          [&] { return cuda->kernels->linear(&linear, on.stream); });
  linear.dtype = FLUXD_BF16, linear.in = 12;
  refuses("an odd width", "multiples of 8",
          [&] { return cuda->kernels->linear(&linear, on.stream); });
  linear.in = 8, linear.left_width = 4;
  refuses("an odd left", "multiples of 8",
          [&] { return cuda->kernels->linear(&linear, on.stream); });
  linear.left_width = 8, linear.left = &linear, linear.epilogue = FLUXD_EPILOGUE_GATED;
  refuses("a gate with left", "no left with a gated",
          [&] { return cuda->kernels->linear(&linear, on.stream); });
  const fluxd_quantize_rows rows = {1, 8000, FLUXD_BF16, {}, {}, {}, {}, 8385};
  refuses("too wide a row", "rows of 1 to 16384 values",
          [&] { return cuda->kernels->quantize_rows(&rows, on.stream); });
  const fluxd_qk_norm_rope heads = {1, 1, 258, FLUXD_BF16, 0, {}, {}, {}, {}, {}, {}, {}, {}};
  refuses("too wide a head", "an even size up to 256",
          [&] { return cuda->kernels->qk_norm_rope(&heads, on.stream); });
  fluxd_group_norm norm = {6, 4, 1, FLUXD_F32, 0, 0, {}, {}, {}, {}};
  refuses("unequal groups", "channels in equal groups",
          [&] { return cuda->kernels->group_norm(&norm, on.stream); });
  norm.groups = 2, norm.dtype = FLUXD_BF16;
  refuses("an image in bf16", "float32 or float16 for GroupNorm",
          [&] { return cuda->kernels->group_norm(&norm, on.stream); });
}

namespace {

void writeReport(const char *path) {
  FILE *file = std::fopen(path, "w");
  expect(file, std::string("to write ") + path);
  std::fprintf(file, "{\n  \"cases\": [\n");
  for (size_t i = 0; i < results.size(); i++) {
    const auto &r = results[i];
    char error[32] = "null";
    if (std::isfinite(r.error)) std::snprintf(error, sizeof error, "%.3g", r.error);
    std::fprintf(file, "    { \"name\": \"%s\", \"error\": %s, \"tolerance\": %g, \"ok\": %s }%s\n",
                 r.name.c_str(), error, r.tolerance, r.error <= r.tolerance ? "true" : "false",
                 i + 1 < results.size() ? "," : "");
  }
  std::fprintf(file, "  ]\n}\n");
  std::fclose(file);
}

const fluxd_device *openLibrary(const char *path) {
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) throw std::runtime_error(dlerror());
  const auto open =
      reinterpret_cast<decltype(&fluxd_cuda_library)>(dlsym(library, "fluxd_cuda_library"));
  expect(open, std::string("fluxd_cuda_library in ") + path);
  const fluxd_device *device = nullptr;
  const char *error = nullptr;
  if (open(0, &device, &error)) throw std::runtime_error(error);
  expect(device->abi_version == FLUXD_ABI_VERSION, "the ABI version of kernels.h");
  return device;
}

}  // namespace

}  // namespace gpu

int main(int count, char **arguments) {
  using namespace gpu;
  if (count < 3) {
    std::fprintf(stderr, "usage: %s LIBRARY REPORT.json [full]\n", arguments[0]);
    return 2;
  }
  try {
    cuda = openLibrary(arguments[1]);
    const bool full = count > 3 && std::string(arguments[3]) == "full";
    checkLinears(full);
    checkRows();
    checkPictures(full);
    checkMerges(full);
    checkRefusals();
    writeReport(arguments[2]);
  } catch (const std::exception &error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  }
  int failed = 0;
  for (const auto &result : results) failed += !(result.error <= result.tolerance);
  std::printf("%zu cases, %d failed\n", results.size(), failed);
  return failed > 0;
}
