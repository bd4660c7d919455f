// The CPU twin of GroupNorm.
#include "kernel.h"

namespace fluxd {

// Sums of so many values are float32, and their sum is float64: a group may have millions.
constexpr int64_t kSpan = 4096;
// Sums side by side, which a compiler keeps in vector registers.
constexpr int64_t kLanes = 16;

// Σ term(x[i]) over a span.
template <typename T, typename Term>
static float sumSpan(const T *x, int64_t count, Term term) {
  float lanes[kLanes] = {}, sum = 0;
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int64_t lane = 0; lane < kLanes; lane++) lanes[lane] += term(toFloat(x[i + lane]));
  for (; i < count; i++) sum += term(toFloat(x[i]));
  for (float lane : lanes) sum += lane;
  return sum;
}

template <typename T, typename Term>
static double sumOf(const T *x, int64_t count, Term term) {
  double sum = 0;
  for (int64_t i = 0; i < count; i += kSpan)
    sum += sumSpan(x + i, std::min(kSpan, count - i), term);
  return sum;
}

template <typename T>
static void normGroup(const fluxd_group_norm &op, int64_t group) {
  const int64_t channels = op.channels / op.groups, count = channels * op.plane;
  auto x = static_cast<const T *>(op.x) + group * count;
  auto y = static_cast<T *>(op.y) + group * count;
  const auto mean = float(sumOf(x, count, [](float value) { return value; }) / double(count));
  const auto squares =
      sumOf(x, count, [=](float value) { return (value - mean) * (value - mean); });
  const float inverse = 1.0f / std::sqrt(float(squares / double(count)) + op.epsilon);
  for (int64_t c = 0; c < channels; c++) {
    const float factor = inverse * op.scale[group * channels + c];
    const float shift = op.shift[group * channels + c];
    for (int64_t i = c * op.plane; i < (c + 1) * op.plane; i++) {
      const float n = (toFloat(x[i]) - mean) * factor + shift;
      y[i] = fromFloat<T>(op.silu ? n / (1.0f + std::exp(-n)) : n);
    }
  }
}

int groupNormCpu(const fluxd_group_norm *op, fluxd_queue queue) {
  return guarded("group_norm", [&] {
    expect(op->channels > 0 && op->plane > 0, "channels and plane to be lengths");
    expect(op->groups > 0 && op->channels % op->groups == 0,
           "groups that divide " + std::to_string(op->channels) + " channels but got " +
               std::to_string(op->groups));
    expect(op->dtype == FLUXD_F32 || op->dtype == FLUXD_F16,
           "dtype F32 or F16 but got " + std::to_string(op->dtype));
    parallelFor(queue, op->groups, [&](int64_t group) {
      op->dtype == FLUXD_F32 ? normGroup<float>(*op, group) : normGroup<F16>(*op, group);
    });
  });
}

}  // namespace fluxd
