// Operators that work row by row: QuantizeRows, ModulatedNorm, QkNormRope.
#include "cases.h"

#include <algorithm>

namespace gpu {

namespace {

// Bits must agree: both divide and round alike.
template <typename T>
double compareQuantizeRows(int64_t rows, int64_t width, int64_t rightWidth = 0) {
  Device on(*cuda);
  const auto valuesOf = [&](int64_t columns) {
    auto values = randomValues<T>(randomness, rows * columns, 30);
    if (rows > 2) std::fill_n(values.begin() + 2 * columns, columns, T{0});
    return values;
  };
  Tensor<T> x(on, valuesOf(width)), right(on, valuesOf(rightWidth));
  Tensor<E4m3> y(on, rows * (width + rightWidth));
  Tensor<float> scale(on, rows);
  fluxd_quantize_rows op = {rows, width, dtypeOf<T>, x.host.data(), y.host.data(),
                            scale.host.data(), rightWidth ? right.host.data() : nullptr,
                            rightWidth};
  checkTwin(twins().quantize_rows(&op, pool()));
  op.x = x.on(), op.y = y.on(), op.scale = scale.on();
  op.right = rightWidth ? right.on() : nullptr;
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

}  // namespace

void checkRows() {
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

  const int64_t pairs[][2] = {{8, 8}, {24, 8}, {7, 9}, {8, 3}, {311, 1000}, {3072, 12288}};
  for (const auto &[width, rightWidth] : pairs) {
    measure(named("quantize_rows", {5, width, rightWidth}, "bf16 side by side"), 0,
            [&, width = width, rightWidth = rightWidth] {
              return compareQuantizeRows<Bf16>(5, width, rightWidth);
            });
    measure(named("quantize_rows", {5, width, rightWidth}, "float32 side by side"), 0,
            [&, width = width, rightWidth = rightWidth] {
              return compareQuantizeRows<float>(5, width, rightWidth);
            });
  }

  const int64_t heads[][3] = {{13, 24, 128}, {1, 1, 128}, {7, 2, 16},
                              {9, 3, 22},    {5, 2, 256}, {3, 1, 2}};
  for (const auto &[rows, count, size] : heads) {
    measure(named("qk_norm_rope", {rows, count, size}, ""), kBf16,
            [&, rows = rows, count = count, size = size] {
              return compareQkNormRope(rows, count, size);
            });
  }
}

}  // namespace gpu
