/*
 * Failures inside the library are exceptions; at its border they become a number and a sentence.
 */
#pragma once

#include <cuda_runtime.h>

#include <exception>
#include <stdexcept>
#include <string>

namespace fluxd::cuda {

/** Something that a caller can read: what was expected and what came. */
struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/** A sentence in the manner of printf. */
std::string format(const char *pattern, ...) __attribute__((format(printf, 1, 2)));

/** Throws what the runtime says about `error`, unless it is success. */
void check(cudaError_t error, const char *call);

/** Throws Failure(`message`) unless `condition` holds. */
inline void expect(bool condition, const char *message) {
  if (!condition) throw Failure(message);
}

/** Keeps `message` for lastError of this thread; always 1. */
int keepError(const char *message) noexcept;

/** The sentence of this thread's last failure; empty before the first. */
const char *lastError() noexcept;

/** Runs `body`: 0, or 1 with the reason in lastError. No exception leaves it. */
template <typename Body>
int guarded(Body body) noexcept {
  try {
    body();
    return 0;
  } catch (const std::exception &error) {
    return keepError(error.what());
  }
}

}  // namespace fluxd::cuda

#define FLUXD_CHECK(call) ::fluxd::cuda::check((call), #call)
