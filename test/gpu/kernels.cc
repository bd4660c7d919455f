// kernels LIBRARY REPORT.json [full]: every operator of libfluxd_cuda.so against its CPU twin, on
// random operands. `full` adds sizes of Flux.1, which take the twins some seconds.
//
// The library may also be the emulated one (native/cuda/emulation), so this program itself is
// tested where there is no GPU. Errors are ‖cuda − twin‖ / ‖twin‖; both round to bf16 or e4m3, so
// even perfect kernels differ where float32 sums in another order fall on another side.
#include "kernels.h"

#include <dlfcn.h>

#include <algorithm>
#include <functional>
#include <future>
#include <initializer_list>
#include <memory>
#include <type_traits>

using namespace gpu;

namespace {

constexpr double kBf16 = 1e-2, kFp8 = 5e-2;

struct Result {
  std::string name;
  double error, tolerance;
  std::string message;
};

std::vector<Result> results;
const fluxd_device *cuda;
std::mt19937 randomness(7);

// Runs one case; `body` returns its relative error.
void measure(const std::string &name, double tolerance, const std::function<double()> &body) {
  Result result = {name, INFINITY, tolerance, ""};
  try {
    result.error = body();
  } catch (const std::exception &error) {
    result.message = error.what();
  }
  const bool ok = result.error <= tolerance;
  std::printf("%s %-64s %.2e%s%s\n", ok ? "ok  " : "FAIL", name.c_str(), result.error,
              result.message.empty() ? "" : ": ", result.message.c_str());
  results.push_back(result);
}

const fluxd_kernels &twins() { return *fluxd_cpu_kernels(); }

void checkTwin(int failed) {
  if (failed) throw std::runtime_error(twins().last_error());
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

const char *epilogueNames[] = {"plain", "gelu", "gated"};

struct LinearCase {
  int64_t rows, in, out;
  fluxd_epilogue epilogue;
  bool bias, inPlace;
};

std::string nameOf(const char *op, const LinearCase &c) {
  return named(op, {c.rows, c.in, c.out},
               std::string(epilogueNames[c.epilogue]) + (c.bias ? " bias" : "") +
                   (c.inPlace ? " in place" : ""));
}

double compareLinear(const LinearCase &c) {
  Device on(*cuda);
  Tensor<Bf16> x(on, randomValues<Bf16>(randomness, c.rows * c.in));
  Tensor<Bf16> weight(on, randomValues<Bf16>(randomness, c.out * c.in, 1 / std::sqrt(float(c.in))));
  Tensor<Bf16> bias(on, randomValues<Bf16>(randomness, c.out));
  Tensor<float> gate(on, randomValues<float>(randomness, c.out));
  Tensor<Bf16> residual(on, randomValues<Bf16>(randomness, c.rows * c.out));
  Tensor<Bf16> y(on, c.rows * c.out);
  fluxd_linear op = {c.rows, c.in, c.out, FLUXD_BF16, c.epilogue, x.host.data(),
                     weight.host.data(), c.bias ? bias.host.data() : nullptr, gate.host.data(),
                     residual.host.data(), y.host.data()};
  checkTwin(twins().linear(&op, pool()));
  auto &target = c.inPlace ? residual : y;
  op.x = x.on(), op.weight = weight.on(), op.gate = gate.on(), op.residual = residual.on();
  op.bias = c.bias ? bias.on() : nullptr, op.y = target.on();
  check(cuda->kernels->linear(&op, on.stream), *cuda);
  return relativeError(floats(target.result()), floats(y.host));
}

// One host thread and its stream; all callers share the plan of one shape, but not its bias.
struct Caller {
  static constexpr int64_t kRows = 40, kIn = 32, kOut = 48;
  Device on{*cuda};
  Tensor<Bf16> x{on, randomValues<Bf16>(randomness, kRows * kIn)};
  Tensor<Bf16> weight{on, randomValues<Bf16>(randomness, kOut * kIn)};
  Tensor<Bf16> bias{on, randomValues<Bf16>(randomness, kOut, 100)};
  Tensor<Bf16> y{on, kRows * kOut};

  // The largest error of its calls.
  double run() {
    double error = 0;
    fluxd_linear op = {kRows, kIn, kOut, FLUXD_BF16, FLUXD_EPILOGUE_NONE, x.host.data(),
                       weight.host.data(), bias.host.data(), nullptr, nullptr, y.host.data()};
    checkTwin(twins().linear(&op, nullptr));
    op.x = x.on(), op.weight = weight.on(), op.bias = bias.on(), op.y = y.on();
    for (int i = 0; i < 50; i++) {
      check(cuda->kernels->linear(&op, on.stream), *cuda);
      error = std::max(error, relativeError(floats(y.result()), floats(y.host)));
    }
    return error;
  }
};

double compareConcurrentLinears() {
  std::vector<std::unique_ptr<Caller>> callers;
  for (int i = 0; i < 4; i++) callers.push_back(std::make_unique<Caller>());
  std::vector<std::future<double>> errors;
  for (auto &caller : callers) {
    errors.push_back(std::async(std::launch::async, [&caller] { return caller->run(); }));
  }
  double largest = 0;
  for (auto &error : errors) largest = std::max(largest, error.get());
  return largest;
}

struct Quantized {
  std::vector<E4m3> values;
  std::vector<float> scales;
};

Quantized quantizedRows(int64_t rows, int64_t width, float spread) {
  const auto x = randomValues<float>(randomness, rows * width, spread);
  Quantized q = {std::vector<E4m3>(size_t(rows * width)), std::vector<float>(size_t(rows))};
  const fluxd_quantize_rows op = {rows, width, FLUXD_F32, x.data(), q.values.data(),
                                  q.scales.data()};
  checkTwin(twins().quantize_rows(&op, pool()));
  return q;
}

double compareFp8Linear(const LinearCase &c) {
  Device on(*cuda);
  const auto xs = quantizedRows(c.rows, c.in, 1);
  const auto weights = quantizedRows(c.out, c.in, 1 / std::sqrt(float(c.in)));
  Tensor<E4m3> x(on, xs.values), weight(on, weights.values);
  Tensor<float> xScale(on, xs.scales), weightScale(on, weights.scales);
  Tensor<Bf16> bias(on, randomValues<Bf16>(randomness, c.out));
  Tensor<float> gate(on, randomValues<float>(randomness, c.out));
  Tensor<Bf16> residual(on, randomValues<Bf16>(randomness, c.rows * c.out));
  Tensor<Bf16> y(on, c.rows * c.out);
  fluxd_fp8_linear op = {c.rows, c.in, c.out, FLUXD_BF16, c.epilogue, x.host.data(),
                         xScale.host.data(), weight.host.data(), weightScale.host.data(),
                         c.bias ? bias.host.data() : nullptr, gate.host.data(),
                         residual.host.data(), y.host.data()};
  checkTwin(twins().fp8_linear(&op, pool()));
  auto &target = c.inPlace ? residual : y;
  op.x = x.on(), op.weight = weight.on(), op.gate = gate.on(), op.residual = residual.on();
  op.x_scale = xScale.on(), op.weight_scale = weightScale.on();
  op.bias = c.bias ? bias.on() : nullptr, op.y = target.on();
  check(cuda->kernels->fp8_linear(&op, on.stream), *cuda);
  return relativeError(floats(target.result()), floats(y.host));
}

template <typename T>
constexpr fluxd_dtype dtypeOf = std::is_same_v<T, Bf16> ? FLUXD_BF16 : FLUXD_F32;

// Bits must agree: both divide and round alike.
template <typename T>
double compareQuantizeRows(int64_t rows, int64_t width) {
  Device on(*cuda);
  auto values = randomValues<T>(randomness, rows * width, 30);
  if (rows > 2) std::fill_n(values.begin() + 2 * width, width, T{0});
  Tensor<T> x(on, values);
  Tensor<E4m3> y(on, rows * width);
  Tensor<float> scale(on, rows);
  fluxd_quantize_rows op = {rows, width, dtypeOf<T>, x.host.data(), y.host.data(),
                            scale.host.data()};
  checkTwin(twins().quantize_rows(&op, pool()));
  op.x = x.on(), op.y = y.on(), op.scale = scale.on();
  check(cuda->kernels->quantize_rows(&op, on.stream), *cuda);
  return sameBits(y.result(), y.host) && sameBits(scale.result(), scale.host) ? 0 : 1;
}

double compareModulatedNorm(int64_t rows, int64_t width, bool quantized) {
  Device on(*cuda);
  // Far from 0, where a variance by difference of means would fail.
  Tensor<Bf16> x(on, randomValues<Bf16>(randomness, rows * width, 2, 20));
  Tensor<float> scale(on, randomValues<float>(randomness, width, 0.3f, 1));
  Tensor<float> shift(on, randomValues<float>(randomness, width));
  Tensor<Bf16> y(on, rows * width);
  Tensor<E4m3> y8(on, rows * width);
  Tensor<float> yScale(on, rows);
  fluxd_modulated_norm op = {rows, width, FLUXD_BF16, quantized ? FLUXD_E4M3 : FLUXD_BF16, 1e-6f,
                             x.host.data(), scale.host.data(), shift.host.data(),
                             quantized ? static_cast<void *>(y8.host.data()) : y.host.data(),
                             yScale.host.data()};
  checkTwin(twins().modulated_norm(&op, pool()));
  op.x = x.on(), op.scale = scale.on(), op.shift = shift.on(), op.y_scale = yScale.on();
  op.y = quantized ? static_cast<void *>(y8.on()) : y.on();
  check(cuda->kernels->modulated_norm(&op, on.stream), *cuda);
  if (!quantized) return relativeError(floats(y.result()), floats(y.host));
  return relativeError(dequantized(y8.result(), yScale.result()),
                       dequantized(y8.host, yScale.host));
}

double compareQkNormRope(int64_t rows, int64_t heads, int64_t headDim) {
  Device on(*cuda);
  const int64_t width = heads * headDim;
  std::vector<float> cosines, sines;
  for (int64_t i = 0; i < rows * headDim / 2; i++) {
    cosines.push_back(std::cos(float(i) * 0.37f));
    sines.push_back(std::sin(float(i) * 0.37f));
  }
  Tensor<Bf16> qkv(on, randomValues<Bf16>(randomness, rows * 3 * width, 3));
  Tensor<Bf16> qScale(on, randomValues<Bf16>(randomness, headDim, 0.3f, 1));
  Tensor<Bf16> kScale(on, randomValues<Bf16>(randomness, headDim, 0.3f, 1));
  Tensor<float> cos(on, cosines), sin(on, sines);
  Tensor<Bf16> q(on, rows * width), k(on, rows * width), v(on, rows * width);
  fluxd_qk_norm_rope op = {rows, heads, headDim, FLUXD_BF16, 1e-6f, qkv.host.data(),
                           qScale.host.data(), kScale.host.data(), cos.host.data(),
                           sin.host.data(), q.host.data(), k.host.data(), v.host.data()};
  checkTwin(twins().qk_norm_rope(&op, pool()));
  op.qkv = qkv.on(), op.q_scale = qScale.on(), op.k_scale = kScale.on();
  op.cos = cos.on(), op.sin = sin.on(), op.q = q.on(), op.k = k.on(), op.v = v.on();
  check(cuda->kernels->qk_norm_rope(&op, on.stream), *cuda);
  expect(sameBits(v.result(), v.host), "v to be copied bit by bit");
  return std::max(relativeError(floats(q.result()), floats(q.host)),
                  relativeError(floats(k.result()), floats(k.host)));
}

struct MergeCase {
  int64_t out, in, rank;
  bool quantized, inPlace;
};

template <typename T>
double compareMerge(const MergeCase &c) {
  Device on(*cuda);
  Tensor<T> base(on, randomValues<T>(randomness, c.out * c.in));
  Tensor<float> up(on, randomValues<float>(randomness, c.out * c.rank));
  Tensor<float> down(on, randomValues<float>(randomness, c.rank * c.in, 0.2f));
  Tensor<T> merged(on, c.out * c.in);
  Tensor<E4m3> merged8(on, c.out * c.in);
  Tensor<float> scale(on, c.out);
  fluxd_merge op = {c.out, c.in, c.rank, dtypeOf<T>, c.quantized ? FLUXD_E4M3 : dtypeOf<T>,
                    base.host.data(), up.host.data(), down.host.data(),
                    c.quantized ? static_cast<void *>(merged8.host.data()) : merged.host.data(),
                    scale.host.data()};
  checkTwin(twins().merge(&op, pool()));
  auto &target = c.inPlace ? base : merged;
  op.base = base.on(), op.up = up.on(), op.down = down.on(), op.merged_scale = scale.on();
  op.merged = c.quantized ? static_cast<void *>(merged8.on()) : target.on();
  check(cuda->kernels->merge(&op, on.stream), *cuda);
  if (!c.quantized) return relativeError(floats(target.result()), floats(merged.host));
  return relativeError(dequantized(merged8.result(), scale.result()),
                       dequantized(merged8.host, scale.host));
}

// Switching sets at random must leave the very bits of a merge into fresh memory.
double compareSwitches(int switches, bool quantized) {
  constexpr int64_t out = 200, in = 328, largestRank = 40;
  Device on(*cuda);
  Tensor<Bf16> base(on, randomValues<Bf16>(randomness, out * in));
  Tensor<float> up(on, randomValues<float>(randomness, out * largestRank));
  Tensor<float> down(on, randomValues<float>(randomness, largestRank * in, 0.2f));
  Tensor<Bf16> working(on, out * in), fresh(on, out * in);
  Tensor<float> workingScale(on, out), freshScale(on, out);
  fluxd_merge op = {out, in, 0, FLUXD_BF16, quantized ? FLUXD_E4M3 : FLUXD_BF16, base.on(),
                    up.on(), down.on(), working.on(), workingScale.on()};
  for (int i = 0; i < switches; i++) {
    op.rank = int64_t(randomness() % (largestRank + 1));
    check(cuda->kernels->merge(&op, on.stream), *cuda);
  }
  op.merged = fresh.on(), op.merged_scale = freshScale.on();
  check(cuda->kernels->merge(&op, on.stream), *cuda);
  const size_t bytes = size_t(out * in) * (quantized ? 1 : 2);
  const auto a = working.result(), b = fresh.result();
  const auto values = quantized ? freshScale.result() : floats(b);
  expect(std::isfinite(relativeError(values, values)), "every value to be written");
  return std::memcmp(a.data(), b.data(), bytes) == 0 &&
                 (!quantized || sameBits(workingScale.result(), freshScale.result()))
             ? 0
             : 1;
}

// The failing call must say `words`.
void refuses(const std::string &name, const std::string &words, const std::function<int()> &call) {
  measure("refuses " + name, 0, [&] {
    expect(call() != 0, "a failure");
    const std::string said = cuda->kernels->last_error();
    expect(said.find(words) != std::string::npos, "\"" + words + "\" in \"" + said + "\"");
    return 0.0;
  });
}

void checkRefusals() {
  Device on(*cuda);
  fluxd_linear linear = {1, 8, 8, FLUXD_F32, FLUXD_EPILOGUE_NONE, {}, {}, {}, {}, {}, {}};
  refuses("float32", "Expected bf16 tensors for Linear",
          [&] { return cuda->kernels->linear(&linear, on.stream); });
  linear.dtype = FLUXD_BF16, linear.in = 12;
  refuses("an odd width", "multiples of 8", [&] { return cuda->kernels->linear(&linear, on.stream); });
  const fluxd_quantize_rows rows = {1, 16385, FLUXD_BF16, {}, {}, {}};
  refuses("too wide a row", "rows of 1 to 16384 values",
          [&] { return cuda->kernels->quantize_rows(&rows, on.stream); });
  const fluxd_qk_norm_rope heads = {1, 1, 258, FLUXD_BF16, 0, {}, {}, {}, {}, {}, {}, {}, {}};
  refuses("too wide a head", "an even size up to 256",
          [&] { return cuda->kernels->qk_norm_rope(&heads, on.stream); });
}

void checkAll(bool full) {
  for (auto epilogue : {FLUXD_EPILOGUE_NONE, FLUXD_EPILOGUE_GELU, FLUXD_EPILOGUE_GATED}) {
    std::vector<LinearCase> cases = {{53, 80, 112, epilogue, true, false},
                                     {1, 16, 16, epilogue, false, false}};
    if (epilogue == FLUXD_EPILOGUE_GATED) cases.push_back({130, 64, 48, epilogue, true, true});
    if (full) cases.push_back({513, 3072, 3072, epilogue, true, false});
    for (const auto &c : cases) {
      measure(nameOf("linear", c), kBf16, [&] { return compareLinear(c); });
      measure(nameOf("fp8_linear", c), kFp8, [&] { return compareFp8Linear(c); });
    }
  }
  measure("linear 9 24 8 plain", kBf16, [] {
    return compareLinear({9, 24, 8, FLUXD_EPILOGUE_NONE, true, false});
  });
  measure("linear 40 32 48 on four threads at once", kBf16, compareConcurrentLinears);
  if (full) {
    // More than the scratch product holds: the gated product in place goes in parts.
    measure("linear 5500 64 3072 gated in place", kBf16, [] {
      return compareLinear({5500, 64, 3072, FLUXD_EPILOGUE_GATED, true, true});
    });
  }

  for (int64_t width : {1, 7, 8, 24, 311, 1000, 3072, 15360, 16384}) {
    const int64_t rows = width > 2000 ? 5 : 37;
    measure(named("quantize_rows", {rows, width}, "bf16"), 0,
            [&] { return compareQuantizeRows<Bf16>(rows, width); });
    measure(named("quantize_rows", {rows, width}, "float32"), 0,
            [&] { return compareQuantizeRows<float>(rows, width); });
    measure(named("modulated_norm", {rows, width}, "bf16"), kBf16,
            [&] { return compareModulatedNorm(rows, width, false); });
    measure(named("modulated_norm", {rows, width}, "e4m3"), kFp8,
            [&] { return compareModulatedNorm(rows, width, true); });
  }

  const int64_t heads[][3] = {{13, 24, 128}, {1, 1, 128}, {7, 2, 16}, {9, 3, 22}, {5, 2, 256}, {3, 1, 2}};
  for (const auto &[rows, count, size] : heads) {
    measure(named("qk_norm_rope", {rows, count, size}, ""), kBf16,
            [&, rows = rows, count = count, size = size] {
              return compareQkNormRope(rows, count, size);
            });
  }

  const MergeCase merges[] = {{64, 128, 16, false, false}, {65, 129, 1, false, false},
                              {100, 331, 17, false, true}, {1, 8, 0, false, false},
                              {130, 264, 128, false, false}, {7, 3, 5, false, false}};
  for (const auto &c : merges) {
    const MergeCase quantized = {c.out, c.in, c.rank, true, false};
    const char *place = c.inPlace ? " in place" : "";
    const auto name = [&](const char *dtypes) {
      return named("merge", {c.out, c.in, c.rank}, std::string(dtypes) + place);
    };
    measure(name("bf16"), kBf16, [&] { return compareMerge<Bf16>(c); });
    measure(name("float32"), 1e-6, [&] { return compareMerge<float>(c); });
    measure(name("bf16 to e4m3"), kFp8, [&] { return compareMerge<Bf16>(quantized); });
    measure(name("float32 to e4m3"), kFp8, [&] { return compareMerge<float>(quantized); });
  }
  const int switches = full ? 1000 : 5;
  for (bool quantized : {false, true}) {
    measure(named("merge", {switches}, quantized ? "switches, e4m3 bits" : "switches, bf16 bits"), 0,
            [&] { return compareSwitches(switches, quantized); });
  }
  checkRefusals();
}

void writeReport(const char *path) {
  FILE *file = std::fopen(path, "w");
  expect(file, std::string("to write ") + path);
  std::fprintf(file, "{\n  \"cases\": [\n");
  for (size_t i = 0; i < results.size(); i++) {
    const auto &r = results[i];
    std::fprintf(file, "    { \"name\": \"%s\", \"error\": %s, \"tolerance\": %g, \"ok\": %s }%s\n",
                 r.name.c_str(), std::isfinite(r.error) ? std::to_string(r.error).c_str() : "null",
                 r.tolerance, r.error <= r.tolerance ? "true" : "false",
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

int main(int count, char **arguments) {
  if (count < 3) {
    std::fprintf(stderr, "usage: %s LIBRARY REPORT.json [full]\n", arguments[0]);
    return 2;
  }
  try {
    cuda = openLibrary(arguments[1]);
    checkAll(count > 3 && std::string(arguments[3]) == "full");
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
