// Linear layers in bf16 and e4m3, alone and from several threads.
#include "cases.h"

#include <algorithm>
#include <future>
#include <memory>

namespace gpu {

namespace {

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
                     residual.host.data(), y.host.data(), nullptr, 0};
  checkTwin(twins().linear(&op, pool()));
  auto &target = c.inPlace ? residual : y;
  op.x = x.on(), op.weight = weight.on(), op.gate = gate.on(), op.residual = residual.on();
  op.bias = c.bias ? bias.on() : nullptr, op.y = target.on();
  check(cuda->kernels->linear(&op, on.stream), *cuda);
  return relativeError(floats(target.result()), floats(y.host));
}

// Behind columns that are there already, which must come over bit by bit.
double compareLinearBeside(const LinearCase &c, int64_t leftWidth) {
  Device on(*cuda);
  Tensor<Bf16> x(on, randomValues<Bf16>(randomness, c.rows * c.in));
  Tensor<Bf16> weight(on, randomValues<Bf16>(randomness, c.out * c.in, 1 / std::sqrt(float(c.in))));
  Tensor<Bf16> bias(on, randomValues<Bf16>(randomness, c.out));
  Tensor<Bf16> left(on, randomValues<Bf16>(randomness, c.rows * leftWidth));
  Tensor<Bf16> y(on, c.rows * (leftWidth + c.out));
  fluxd_linear op = {c.rows, c.in, c.out, FLUXD_BF16, c.epilogue, x.host.data(),
                     weight.host.data(), bias.host.data(), nullptr, nullptr, y.host.data(),
                     left.host.data(), leftWidth};
  checkTwin(twins().linear(&op, pool()));
  op.x = x.on(), op.weight = weight.on(), op.bias = bias.on(), op.y = y.on(), op.left = left.on();
  check(cuda->kernels->linear(&op, on.stream), *cuda);
  const auto got = y.result();
  for (int64_t r = 0; r < c.rows; r++) {
    expect(std::memcmp(&got[size_t(r * (leftWidth + c.out))], &left.host[size_t(r * leftWidth)],
                       size_t(leftWidth) * sizeof(Bf16)) == 0,
           "left to be copied bit by bit");
  }
  return relativeError(floats(got), floats(y.host));
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
                       weight.host.data(), bias.host.data(), nullptr, nullptr, y.host.data(),
                       nullptr, 0};
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
                                  q.scales.data(), nullptr, 0};
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

}  // namespace

void checkLinears(bool full) {
  for (auto epilogue : {FLUXD_EPILOGUE_NONE, FLUXD_EPILOGUE_GELU, FLUXD_EPILOGUE_GATED}) {
    std::vector<LinearCase> cases = {{53, 80, 112, epilogue, true, false},
                                     {1, 16, 16, epilogue, false, false}};
    if (epilogue == FLUXD_EPILOGUE_GATED) cases.push_back({130, 64, 48, epilogue, true, true});
    if (full) {
      cases.push_back({513, 3072, 3072, epilogue, true, false});
      // Few long rows, which cuBLASLt may refuse to scale.
      cases.push_back({256, 12288, 3072, epilogue, true, false});
    }
    for (const auto &c : cases) {
      measure(nameOf("linear", c), kBf16, [&] { return compareLinear(c); });
      measure(nameOf("fp8_linear", c), kFp8, [&] { return compareFp8Linear(c); });
    }
  }
  measure("linear 9 24 8 plain", kBf16, [] {
    return compareLinear({9, 24, 8, FLUXD_EPILOGUE_NONE, true, false});
  });
  for (auto epilogue : {FLUXD_EPILOGUE_NONE, FLUXD_EPILOGUE_GELU}) {
    const LinearCase c = {53, 80, 112, epilogue, true, false};
    for (int64_t leftWidth : {8, 40}) {
      measure(nameOf("linear", c) + " behind " + std::to_string(leftWidth), kBf16,
              [&] { return compareLinearBeside(c, leftWidth); });
    }
  }
  measure("linear 40 32 48 on four threads at once", kBf16, compareConcurrentLinears);
  if (full) {
    // More than the scratch product holds: the gated product in place goes in parts.
    measure("linear 5500 64 3072 gated in place", kBf16, [] {
      return compareLinear({5500, 64, 3072, FLUXD_EPILOGUE_GATED, true, true});
    });
  }
}

}  // namespace gpu
