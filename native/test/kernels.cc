// The CPU twins against their formulas in float64. Tolerances are relative (norms), with the
// observed values next to them.
#include <cstring>

#include "check.h"
#include "fluxd/kernels.h"
#include "operands.h"

using namespace fluxd;

static const fluxd_kernels &kernels = *fluxd_cpu_kernels();

// Lengths that fill no tile.
constexpr int64_t rows = 53, in = 311, out = 101;

static fluxd_queue pool() {
  fluxd_queue stream;
  fluxd_cpu_device()->create_stream(nullptr, &stream);
  return stream;
}

template <typename T>
constexpr fluxd_dtype dtypeOf = std::is_same_v<T, Bf16>  ? FLUXD_BF16
                                : std::is_same_v<T, F16> ? FLUXD_F16
                                                         : FLUXD_F32;

template <typename T>
static void checkLinear(fluxd_epilogue epilogue, double tolerance) {
  std::mt19937 random(1);
  auto x = randomOperand<T>(random, rows * in), w = randomOperand<T>(random, out * in, 0.1f);
  auto bias = randomOperand<T>(random, out), residual = randomOperand<T>(random, rows * out);
  auto gate = randomOperand<float>(random, out);
  auto want = productExact(x.exact, w.exact, rows, in, out);
  for (int64_t i = 0; i < rows * out; i++) {
    const double t = want[i] + bias.exact[i % out];
    want[i] = epilogue == FLUXD_EPILOGUE_GELU    ? geluTanhExact(t)
              : epilogue == FLUXD_EPILOGUE_GATED ? residual.exact[i] + gate.exact[i % out] * t
                                                 : t;
  }
  std::vector<T> y(rows * out);
  fluxd_linear op = {rows, in, out, dtypeOf<T>, epilogue, x.stored.data(), w.stored.data(),
                     bias.stored.data(), gate.stored.data(), residual.stored.data(), y.data(),
                     nullptr, 0};
  for (fluxd_queue queue : {fluxd_queue(nullptr), pool()}) {
    CHECK(kernels.linear(&op, queue) == 0);
    CHECK_CLOSE(relativeError(y, want), 0, tolerance);
  }
  // In place: the result takes the residual's memory.
  if (epilogue != FLUXD_EPILOGUE_GATED) return;
  op.y = residual.stored.data();
  CHECK(kernels.linear(&op, pool()) == 0);
  CHECK_CLOSE(relativeError(residual.stored, want), 0, tolerance);
}

// Observed: 2.4e-7 (float32), 1.7e-3 (bfloat16: its rounding).
TEST("linear follows its formula with every epilogue") {
  for (auto epilogue : {FLUXD_EPILOGUE_NONE, FLUXD_EPILOGUE_GELU, FLUXD_EPILOGUE_GATED}) {
    checkLinear<float>(epilogue, 1e-6);
    checkLinear<Bf16>(epilogue, 2e-3);
  }
}

// What a layer writes behind `left` is, bit by bit, what it writes alone.
template <typename T>
static void checkLinearBeside(int64_t leftWidth) {
  std::mt19937 random(11);
  auto x = randomOperand<T>(random, rows * in).stored;
  auto w = randomOperand<T>(random, out * in).stored;
  auto left = randomOperand<T>(random, rows * leftWidth).stored;
  std::vector<T> alone(rows * out), joined(rows * (leftWidth + out));
  fluxd_linear op = {rows, in, out, dtypeOf<T>, FLUXD_EPILOGUE_GELU, x.data(), w.data(), nullptr,
                     nullptr, nullptr, alone.data(), nullptr, 0};
  CHECK(kernels.linear(&op, pool()) == 0);
  op.y = joined.data(), op.left = left.data(), op.left_width = leftWidth;
  CHECK(kernels.linear(&op, pool()) == 0);
  for (int64_t r = 0; r < rows; r++) {
    const T *row = joined.data() + r * (leftWidth + out);
    CHECK(std::memcmp(row, left.data() + r * leftWidth, leftWidth * sizeof(T)) == 0);
    CHECK(std::memcmp(row + leftWidth, alone.data() + r * out, out * sizeof(T)) == 0);
  }
}

TEST("linear leaves the columns on its left as they are, and computes the same behind them") {
  for (int64_t leftWidth : {1, 40}) {
    checkLinearBeside<float>(leftWidth);
    checkLinearBeside<Bf16>(leftWidth);
  }
}

template <typename T>
struct Quantized {
  std::vector<E4m3> values;
  std::vector<float> scale;
  Doubles dequantized;
};

template <typename T>
static Quantized<T> quantize(const std::vector<T> &x, int64_t count, int64_t width) {
  Quantized<T> result{std::vector<E4m3>(count * width), std::vector<float>(count), {}};
  fluxd_quantize_rows op = {count, width, dtypeOf<T>, x.data(), result.values.data(),
                            result.scale.data(), nullptr, 0};
  CHECK(kernels.quantize_rows(&op, pool()) == 0);
  for (int64_t i = 0; i < count * width; i++)
    result.dequantized.push_back(double(toFloat(result.values[i])) * result.scale[i / width]);
  return result;
}

// Observed: 2.6e-2, e4m3's rounding of Gaussian values.
TEST("quantize_rows keeps each row to e4m3's precision, and zeros") {
  std::mt19937 random(2);
  auto x = randomOperand<Bf16>(random, rows * in);
  std::fill_n(x.stored.begin() + 3 * in, in, Bf16{0});
  std::fill_n(x.exact.begin() + 3 * in, in, 0.0);
  auto quantized = quantize(x.stored, rows, in);
  CHECK(quantized.scale[3] == 1);
  double difference = 0, size = 0;
  for (int64_t i = 0; i < rows * in; i++) {
    difference += std::pow(quantized.dequantized[i] - x.exact[i], 2);
    size += x.exact[i] * x.exact[i];
  }
  CHECK_CLOSE(std::sqrt(difference / size), 0, 3e-2);
  for (int64_t r = 0; r < rows; r++) {
    float largest = 0;
    for (int64_t i = 0; i < in; i++)
      largest = std::max(largest, std::fabs(toFloat(quantized.values[r * in + i])));
    CHECK(largest == 448 || r == 3);
  }
}

TEST("quantize_rows of two tensors is that of their rows side by side, bit by bit") {
  constexpr int64_t rightWidth = 77, width = in + rightWidth;
  std::mt19937 random(12);
  auto x = randomOperand<Bf16>(random, rows * in).stored;
  auto right = randomOperand<Bf16>(random, rows * rightWidth, 3).stored;
  std::vector<Bf16> joined;
  for (int64_t r = 0; r < rows; r++) {
    joined.insert(joined.end(), x.begin() + r * in, x.begin() + (r + 1) * in);
    joined.insert(joined.end(), right.begin() + r * rightWidth,
                  right.begin() + (r + 1) * rightWidth);
  }
  auto want = quantize(joined, rows, width);
  std::vector<E4m3> values(rows * width);
  std::vector<float> scale(rows);
  fluxd_quantize_rows op = {rows, in, FLUXD_BF16, x.data(), values.data(), scale.data(),
                            right.data(), rightWidth};
  CHECK(kernels.quantize_rows(&op, pool()) == 0);
  CHECK(scale == want.scale);
  CHECK(std::memcmp(values.data(), want.values.data(), values.size()) == 0);
}

// Observed: 1.6e-3 from what the e4m3 operands say, 3.8e-2 from the operands before quantisation.
TEST("fp8_linear follows its formula, close to the linear layer it stands for") {
  std::mt19937 random(3);
  auto x = randomOperand<Bf16>(random, rows * in), w = randomOperand<Bf16>(random, out * in);
  auto bias = randomOperand<Bf16>(random, out), residual = randomOperand<Bf16>(random, rows * out);
  auto gate = randomOperand<float>(random, out);
  auto x8 = quantize(x.stored, rows, in), w8 = quantize(w.stored, out, in);
  auto gated = [&](Doubles t) {
    for (int64_t i = 0; i < rows * out; i++)
      t[i] = residual.exact[i] + gate.exact[i % out] * (t[i] + bias.exact[i % out]);
    return t;
  };
  std::vector<Bf16> y(rows * out);
  fluxd_fp8_linear op = {rows, in, out, FLUXD_BF16, FLUXD_EPILOGUE_GATED, x8.values.data(),
                         x8.scale.data(), w8.values.data(), w8.scale.data(), bias.stored.data(),
                         gate.stored.data(), residual.stored.data(), y.data()};
  CHECK(kernels.fp8_linear(&op, pool()) == 0);
  CHECK_CLOSE(
      relativeError(y, gated(productExact(x8.dequantized, w8.dequantized, rows, in, out))), 0,
      2e-3);
  CHECK_CLOSE(relativeError(y, gated(productExact(x.exact, w.exact, rows, in, out))), 0, 5e-2);
}

static Doubles modulatedExact(const Doubles &x, const Doubles &scale, const Doubles &shift) {
  Doubles y;
  for (int64_t r = 0; r < rows; r++) {
    double mean = 0, variance = 0;
    for (int64_t i = 0; i < in; i++) mean += x[r * in + i] / in;
    for (int64_t i = 0; i < in; i++) variance += std::pow(x[r * in + i] - mean, 2) / in;
    for (int64_t i = 0; i < in; i++)
      y.push_back((x[r * in + i] - mean) / std::sqrt(variance + 1e-6) * scale[i] + shift[i]);
  }
  return y;
}

// Observed: 1e-7 (float32), 1.7e-3 (bfloat16), 2.6e-2 (e4m3).
TEST("modulated_norm follows its formula in every dtype") {
  std::mt19937 random(4);
  auto scale = randomOperand<float>(random, in), shift = randomOperand<float>(random, in);
  auto check = [&](auto zero) {
    using T = decltype(zero);
    auto x = randomOperand<T>(random, rows * in, 3);
    auto want = modulatedExact(x.exact, scale.exact, shift.exact);
    std::vector<T> y(rows * in);
    fluxd_modulated_norm op = {rows, in, dtypeOf<T>, dtypeOf<T>, 1e-6f, x.stored.data(),
                               scale.stored.data(), shift.stored.data(), y.data(), nullptr};
    CHECK(kernels.modulated_norm(&op, pool()) == 0);
    CHECK_CLOSE(relativeError(y, want), 0, sizeof(T) == 4 ? 1e-6 : 2e-3);

    std::vector<E4m3> y8(rows * in);
    std::vector<float> yScale(rows);
    op.y_dtype = FLUXD_E4M3, op.y = y8.data(), op.y_scale = yScale.data();
    CHECK(kernels.modulated_norm(&op, pool()) == 0);
    std::vector<float> dequantized;
    for (int64_t i = 0; i < rows * in; i++)
      dequantized.push_back(toFloat(y8[i]) * yScale[i / in]);
    CHECK_CLOSE(relativeError(dequantized, want), 0, 3e-2);
  };
  check(float{});
  check(Bf16{});
}

template <typename T>
static void checkQkNormRope(double tolerance) {
  constexpr int64_t heads = 3, headDim = 22, width = heads * headDim, half = headDim / 2;
  std::mt19937 random(5);
  auto qkv = randomOperand<T>(random, rows * 3 * width);
  auto qScale = randomOperand<T>(random, headDim), kScale = randomOperand<T>(random, headDim);
  std::vector<float> cos, sin;
  for (int64_t i = 0; i < rows * half; i++) {
    cos.push_back(std::cos(float(i)));
    sin.push_back(std::sin(float(i)));
  }
  auto exact = [&](int64_t part, const Doubles &scale) {
    Doubles y(rows * width);
    for (int64_t r = 0; r < rows; r++)
      for (int64_t h = 0; h < heads; h++) {
        const double *x = &qkv.exact[(3 * r + part) * width + h * headDim];
        double squares = 0;
        for (int64_t i = 0; i < headDim; i++) squares += x[i] * x[i] / headDim;
        const double factor = 1 / std::sqrt(squares + 1e-6);
        for (int64_t j = 0; j < half; j++) {
          const double even = x[2 * j] * factor * scale[2 * j];
          const double odd = x[2 * j + 1] * factor * scale[2 * j + 1];
          const double c = cos[r * half + j], s = sin[r * half + j];
          y[r * width + h * headDim + 2 * j] = even * c - odd * s;
          y[r * width + h * headDim + 2 * j + 1] = odd * c + even * s;
        }
      }
    return y;
  };
  std::vector<T> q(rows * width), k(rows * width), v(rows * width);
  fluxd_qk_norm_rope op = {rows, heads, headDim, dtypeOf<T>, 1e-6f, qkv.stored.data(),
                           qScale.stored.data(), kScale.stored.data(), cos.data(), sin.data(),
                           q.data(), k.data(), v.data()};
  CHECK(kernels.qk_norm_rope(&op, pool()) == 0);
  CHECK_CLOSE(relativeError(q, exact(0, qScale.exact)), 0, tolerance);
  CHECK_CLOSE(relativeError(k, exact(1, kScale.exact)), 0, tolerance);
  for (int64_t i = 0; i < rows * width; i++)
    CHECK(toFloat(v[i]) == qkv.exact[(3 * (i / width) + 2) * width + i % width]);
}

// Observed: 1e-7 (float32), 1.7e-3 (bfloat16).
TEST("qk_norm_rope follows its formula") {
  checkQkNormRope<float>(1e-6);
  checkQkNormRope<Bf16>(2e-3);
}

template <typename T>
static void checkGroupNorm(int64_t plane, bool silu, double tolerance) {
  constexpr int64_t channels = 6, groups = 2, size = channels / groups;
  std::mt19937 random(8);
  // Far from 0, where a variance by difference of means would fail.
  auto x = randomOperand<T>(random, channels * plane);
  for (int64_t i = 0; i < channels * plane; i++) {
    x.stored[i] = fromFloat<T>(toFloat(x.stored[i]) + float(20 * (i / (size * plane) + 1)));
    x.exact[i] = toFloat(x.stored[i]);
  }
  auto scale = randomOperand<float>(random, channels);
  auto shift = randomOperand<float>(random, channels);
  Doubles want;
  for (int64_t c = 0; c < channels; c++) {
    const double *group = &x.exact[c / size * size * plane];
    double mean = 0, variance = 0;
    for (int64_t i = 0; i < size * plane; i++) mean += group[i] / double(size * plane);
    for (int64_t i = 0; i < size * plane; i++)
      variance += std::pow(group[i] - mean, 2) / double(size * plane);
    for (int64_t i = c * plane; i < (c + 1) * plane; i++) {
      const double n =
          (x.exact[i] - mean) / std::sqrt(variance + 1e-6) * scale.exact[c] + shift.exact[c];
      want.push_back(silu ? n / (1 + std::exp(-n)) : n);
    }
  }
  std::vector<T> y(channels * plane);
  fluxd_group_norm op = {channels, groups, plane, dtypeOf<T>, silu, 1e-6f, x.stored.data(),
                         scale.stored.data(), shift.stored.data(), y.data()};
  for (fluxd_queue queue : {fluxd_queue(nullptr), pool()}) {
    CHECK(kernels.group_norm(&op, queue) == 0);
    CHECK_CLOSE(relativeError(y, want), 0, tolerance);
  }
}

// Observed: 1e-6 (float32: as exact as its values near 40), 2.6e-4 (float16: its rounding).
TEST("group_norm follows its formula, with SiLU and without") {
  for (int64_t plane : {1, 5, 35, 9000})
    for (bool silu : {false, true}) {
      checkGroupNorm<float>(plane, silu, 3e-6);
      checkGroupNorm<F16>(plane, silu, 5e-4);
    }
}

// Observed: 1.7e-3 (bfloat16), 2.6e-2 (e4m3).
TEST("merge adds low-rank changes, in place and into e4m3") {
  constexpr int64_t rank = 5;
  std::mt19937 random(6);
  auto base = randomOperand<Bf16>(random, out * in);
  auto up = randomOperand<float>(random, out * rank);
  auto down = randomOperand<float>(random, rank * in);
  auto want = base.exact;
  for (int64_t o = 0; o < out; o++)
    for (int64_t i = 0; i < in; i++)
      for (int64_t k = 0; k < rank; k++)
        want[o * in + i] += up.exact[o * rank + k] * down.exact[k * in + i];
  std::vector<E4m3> merged(out * in);
  std::vector<float> scale(out);
  fluxd_merge op = {out, in, rank, FLUXD_BF16, FLUXD_E4M3, base.stored.data(), up.stored.data(),
                    down.stored.data(), merged.data(), scale.data(), nullptr};
  CHECK(kernels.merge(&op, pool()) == 0);
  std::vector<float> dequantized;
  for (int64_t i = 0; i < out * in; i++) dequantized.push_back(toFloat(merged[i]) * scale[i / in]);
  CHECK_CLOSE(relativeError(dequantized, want), 0, 3e-2);

  op.merged_dtype = FLUXD_BF16, op.merged = base.stored.data();
  CHECK(kernels.merge(&op, pool()) == 0);
  CHECK_CLOSE(relativeError(base.stored, want), 0, 2e-3);
}

TEST("merge scales each rank as if its column of up had been scaled before") {
  constexpr int64_t rank = 3;
  std::mt19937 random(7);
  auto base = randomOperand<Bf16>(random, out * in);
  auto up = randomOperand<float>(random, out * rank);
  auto down = randomOperand<float>(random, rank * in);
  auto scale = randomOperand<float>(random, rank);
  std::vector<Bf16> merged(out * in), want(out * in);
  fluxd_merge op = {out, in, rank, FLUXD_BF16, FLUXD_BF16, base.stored.data(), up.stored.data(),
                    down.stored.data(), merged.data(), nullptr, scale.stored.data()};
  CHECK(kernels.merge(&op, pool()) == 0);
  for (int64_t i = 0; i < out * rank; i++) up.stored[i] *= scale.stored[i % rank];
  op.merged = want.data(), op.rank_scale = nullptr;
  CHECK(kernels.merge(&op, pool()) == 0);
  CHECK(std::memcmp(merged.data(), want.data(), out * in * sizeof(Bf16)) == 0);
}

TEST("a kernel refuses what it has no code for, and says what") {
  fluxd_linear op = {};
  op.rows = op.in = op.out = 1, op.dtype = FLUXD_E4M3;
  CHECK(kernels.linear(&op, nullptr) != 0);
  CHECK(std::string(kernels.last_error()) == "linear: expected dtype F32 or BF16 but got 17");
  op.dtype = FLUXD_F32, op.left_width = 4;
  CHECK(kernels.linear(&op, nullptr) != 0);
  CHECK(std::string(kernels.last_error()) == "linear: expected left_width to be that of left");
  op.left_width = 0, op.epilogue = FLUXD_EPILOGUE_GATED;
  CHECK(kernels.linear(&op, nullptr) != 0);
  CHECK(std::string(kernels.last_error()) ==
        "linear: expected gate and residual for a gated epilogue");
  const fluxd_group_norm norm = {6, 4, 1, FLUXD_F32, 0, 0, {}, {}, {}, {}};
  CHECK(kernels.group_norm(&norm, nullptr) != 0);
  CHECK(std::string(kernels.last_error()) ==
        "group_norm: expected groups that divide 6 channels but got 4");
}

TEST("no rows are no work") {
  fluxd_linear linear = {0,  4,  4,  FLUXD_F32, FLUXD_EPILOGUE_NONE, {}, {}, {}, {}, {},
                         {}, {}, 0};
  CHECK(kernels.linear(&linear, pool()) == 0);
  fluxd_modulated_norm norm = {0, 4, FLUXD_F32, FLUXD_F32, 0, {}, {}, {}, {}, {}};
  CHECK(kernels.modulated_norm(&norm, pool()) == 0);
}
