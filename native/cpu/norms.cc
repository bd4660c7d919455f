// The CPU twins that work row by row: QuantizeRows, ModulatedNorm, QkNormRope.
#include <vector>

#include "kernel.h"

namespace fluxd {

float quantizeRow(const float *values, int64_t width, E4m3 *y) {
  float largest = 0;
  for (int64_t i = 0; i < width; i++) largest = std::max(largest, std::fabs(values[i]));
  const float scale = largest > 0 ? largest / largestE4m3 : 1.0f;
  for (int64_t i = 0; i < width; i++) y[i] = fromFloat<E4m3>(values[i] / scale);
  return scale;
}

int quantizeRowsCpu(const fluxd_quantize_rows *op, fluxd_queue queue) {
  return guarded("quantize_rows", [&] {
    expect(op->rows >= 0 && op->width > 0, "rows and width to be lengths");
    expect(op->right_width >= 0 && (op->right != nullptr) == (op->right_width > 0),
           "right_width to be that of right");
    const int64_t width = op->width + op->right_width;
    withActivation(op->dtype, [&](auto zero) {
      auto x = static_cast<const decltype(zero) *>(op->x);
      auto right = static_cast<const decltype(zero) *>(op->right);
      parallelRows(queue, op->rows, [&](int64_t begin, int64_t end) {
        std::vector<float> row(width);
        for (int64_t r = begin; r < end; r++) {
          for (int64_t i = 0; i < op->width; i++) row[i] = toFloat(x[r * op->width + i]);
          for (int64_t i = 0; i < op->right_width; i++)
            row[op->width + i] = toFloat(right[r * op->right_width + i]);
          op->scale[r] = quantizeRow(row.data(), width, static_cast<E4m3 *>(op->y) + r * width);
        }
      });
    });
  });
}

template <typename T>
static void modulateRow(const fluxd_modulated_norm &op, const T *x, float *y) {
  float mean = 0, variance = 0;
  for (int64_t i = 0; i < op.width; i++) mean += toFloat(x[i]);
  mean /= float(op.width);
  for (int64_t i = 0; i < op.width; i++) {
    const float deviation = toFloat(x[i]) - mean;
    variance += deviation * deviation;
  }
  const float factor = 1.0f / std::sqrt(variance / float(op.width) + op.epsilon);
  for (int64_t i = 0; i < op.width; i++)
    y[i] = (toFloat(x[i]) - mean) * factor * op.scale[i] + op.shift[i];
}

int modulatedNormCpu(const fluxd_modulated_norm *op, fluxd_queue queue) {
  return guarded("modulated_norm", [&] {
    expect(op->rows >= 0 && op->width > 0, "rows and width to be lengths");
    const bool quantize = op->y_dtype == FLUXD_E4M3;
    expect(quantize || op->y_dtype == op->dtype, "y_dtype to be dtype or E4M3");
    expect(!quantize || op->y_scale, "y_scale for an e4m3 result");
    withActivation(op->dtype, [&](auto zero) {
      using T = decltype(zero);
      parallelRows(queue, op->rows, [&](int64_t begin, int64_t end) {
        std::vector<float> row(op->width);
        for (int64_t r = begin; r < end; r++) {
          const int64_t start = r * op->width;
          modulateRow(*op, static_cast<const T *>(op->x) + start, row.data());
          if (quantize)
            op->y_scale[r] =
                quantizeRow(row.data(), op->width, static_cast<E4m3 *>(op->y) + start);
          else
            for (int64_t i = 0; i < op->width; i++)
              static_cast<T *>(op->y)[start + i] = fromFloat<T>(row[i]);
        }
      });
    });
  });
}

// One head of q or k.
template <typename T>
static void normAndRotate(const T *x, const T *scale, const float *cos, const float *sin,
                          int64_t headDim, float epsilon, T *y) {
  float squares = 0;
  for (int64_t i = 0; i < headDim; i++) squares += toFloat(x[i]) * toFloat(x[i]);
  const float factor = 1.0f / std::sqrt(squares / float(headDim) + epsilon);
  for (int64_t j = 0; j < headDim / 2; j++) {
    const float even = toFloat(x[2 * j]) * factor * toFloat(scale[2 * j]);
    const float odd = toFloat(x[2 * j + 1]) * factor * toFloat(scale[2 * j + 1]);
    y[2 * j] = fromFloat<T>(even * cos[j] - odd * sin[j]);
    y[2 * j + 1] = fromFloat<T>(odd * cos[j] + even * sin[j]);
  }
}

template <typename T>
static void qkNormRopeRow(const fluxd_qk_norm_rope &op, int64_t r) {
  const int64_t width = op.heads * op.head_dim, half = op.head_dim / 2;
  auto row = static_cast<const T *>(op.qkv) + r * 3 * width;
  const float *cos = op.cos + r * half, *sin = op.sin + r * half;
  for (int64_t h = 0; h < op.heads; h++) {
    const int64_t from = h * op.head_dim, to = r * width + from;
    normAndRotate(row + from, static_cast<const T *>(op.q_scale), cos, sin, op.head_dim,
                  op.epsilon, static_cast<T *>(op.q) + to);
    normAndRotate(row + width + from, static_cast<const T *>(op.k_scale), cos, sin, op.head_dim,
                  op.epsilon, static_cast<T *>(op.k) + to);
  }
  std::copy_n(row + 2 * width, width, static_cast<T *>(op.v) + r * width);
}

int qkNormRopeCpu(const fluxd_qk_norm_rope *op, fluxd_queue queue) {
  return guarded("qk_norm_rope", [&] {
    expect(op->rows >= 0 && op->heads > 0 && op->head_dim > 0,
           "rows, heads and head_dim to be lengths");
    expect(op->head_dim % 2 == 0, "an even head_dim but got " + std::to_string(op->head_dim));
    withActivation(op->dtype, [&](auto zero) {
      parallelRows(queue, op->rows, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; r++) qkNormRopeRow<decltype(zero)>(*op, r);
      });
    });
  });
}

}  // namespace fluxd
