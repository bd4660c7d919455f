// The cases of `kernels`: each compares an operator of the library under test with its CPU twin.
#pragma once
#include "kernels.h"

#include <functional>
#include <type_traits>

namespace gpu {

// Of relativeError. Both libraries round to bf16 or e4m3, so even perfect kernels differ where
// float32 sums in another order fall on another side.
constexpr double kBf16 = 1e-2, kFp8 = 5e-2;

// The library under test, and where its operands come from.
extern const fluxd_device *cuda;
extern std::mt19937 randomness;

// Runs one case and reports it; `body` returns its relative error.
void measure(const std::string &name, double tolerance, const std::function<double()> &body);

// `full` adds sizes of Flux.1.
void checkLinears(bool full);
void checkRows();
void checkPictures(bool full);
void checkMerges(bool full);
void checkRefusals();

inline const fluxd_kernels &twins() { return *fluxd_cpu_kernels(); }

inline void checkTwin(int failed) {
  if (failed) throw std::runtime_error(twins().last_error());
}

// The queue of a twin that uses every core.
fluxd_queue pool();

// "op 1 2 3 rest"
std::string named(const char *op, std::initializer_list<int64_t> sizes, const std::string &rest);

template <typename T>
constexpr fluxd_dtype dtypeOf = std::is_same_v<T, Bf16>  ? FLUXD_BF16
                                : std::is_same_v<T, F16> ? FLUXD_F16
                                                         : FLUXD_F32;

}  // namespace gpu
