// What the CPU twins share: errors, dtypes, and the loop over a pool.
#pragma once
#include <algorithm>
#include <stdexcept>
#include <string>

#include "fluxd/kernels.h"
#include "scalar.h"

namespace fluxd {

int fail(const char *kernel, const char *what);

// Runs a kernel; what it throws becomes the calling thread's last error.
template <typename Body>
int guarded(const char *kernel, Body body) {
  try {
    body();
    return 0;
  } catch (const std::exception &error) {
    return fail(kernel, error.what());
  }
}

inline void expect(bool holds, const std::string &expectation) {
  if (!holds) throw std::invalid_argument("expected " + expectation);
}

// Calls body with a value of the type that holds such activations.
template <typename Body>
void withActivation(fluxd_dtype dtype, Body body) {
  if (dtype == FLUXD_F32) return body(float{});
  if (dtype == FLUXD_BF16) return body(Bf16{});
  throw std::invalid_argument("expected dtype F32 or BF16 but got " + std::to_string(dtype));
}

// Calls body(i) for each i in [0, count) on the pool, or here if there is none.
template <typename Body>
void parallelFor(fluxd_queue queue, int64_t count, const Body &body) {
  auto pool = static_cast<const fluxd_pool *>(queue);
  if (!pool || count < 2) {
    for (int64_t i = 0; i < count; i++) body(i);
    return;
  }
  auto call = [](void *data, int64_t i) { (*static_cast<const Body *>(data))(i); };
  pool->parallel_for(pool->context, count, call, const_cast<Body *>(&body));
}

// As parallelFor, for rows that cost little each: body(begin, end).
template <typename Body>
void parallelRows(fluxd_queue queue, int64_t rows, const Body &body) {
  constexpr int64_t chunk = 16;
  parallelFor(queue, (rows + chunk - 1) / chunk, [&](int64_t i) {
    body(i * chunk, std::min((i + 1) * chunk, rows));
  });
}

// Writes the row as e4m3 and returns its scale.
float quantizeRow(const float *values, int64_t width, E4m3 *y);

int linearCpu(const fluxd_linear *, fluxd_queue);
int fp8LinearCpu(const fluxd_fp8_linear *, fluxd_queue);
int quantizeRowsCpu(const fluxd_quantize_rows *, fluxd_queue);
int modulatedNormCpu(const fluxd_modulated_norm *, fluxd_queue);
int qkNormRopeCpu(const fluxd_qk_norm_rope *, fluxd_queue);
int mergeCpu(const fluxd_merge *, fluxd_queue);
int groupNormCpu(const fluxd_group_norm *, fluxd_queue);

}  // namespace fluxd
