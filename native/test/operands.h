// Random operands, and the formulas of fluxd/kernels.h in float64.
#pragma once
#include <random>
#include <vector>

#include "cpu/scalar.h"

namespace fluxd {

using Doubles = std::vector<double>;

// Values as an operator gets them, and what they are exactly.
template <typename T>
struct Operand {
  std::vector<T> stored;
  Doubles exact;
};

template <typename T>
Operand<T> randomOperand(std::mt19937 &random, size_t count, float spread = 1) {
  std::normal_distribution<float> normal(0, spread);
  Operand<T> operand;
  for (size_t i = 0; i < count; i++) {
    operand.stored.push_back(fromFloat<T>(normal(random)));
    operand.exact.push_back(toFloat(operand.stored.back()));
  }
  return operand;
}

inline double geluTanhExact(double t) {
  return 0.5 * t * (1 + std::tanh(std::sqrt(2 / M_PI) * (t + 0.044715 * t * t * t)));
}

inline Doubles productExact(const Doubles &x, const Doubles &w, size_t rows, size_t in,
                            size_t out) {
  Doubles y(rows * out);
  for (size_t r = 0; r < rows; r++)
    for (size_t o = 0; o < out; o++)
      for (size_t i = 0; i < in; i++) y[r * out + o] += x[r * in + i] * w[o * in + i];
  return y;
}

// ‖got − want‖ / ‖want‖
template <typename T>
double relativeError(const std::vector<T> &got, const Doubles &want) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < want.size(); i++) {
    difference += std::pow(double(toFloat(got[i])) - want[i], 2);
    size += want[i] * want[i];
  }
  return std::sqrt(difference / size);
}

}  // namespace fluxd
