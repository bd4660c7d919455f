// Tensors on a device and their surroundings, for comparing an operator of one library with that of
// another.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/scalar.h"
#include "fluxd/kernels.h"

namespace gpu {

using fluxd::Bf16;
using fluxd::E4m3;
using fluxd::F16;

inline void check(int failed, const fluxd_device &device) {
  if (failed) throw std::runtime_error(device.kernels->last_error());
}

inline void expect(bool holds, const std::string &what) {
  if (!holds) throw std::runtime_error("expected " + what);
}

// A stream of a device and the way to it.
struct Device {
  const fluxd_device &device;
  fluxd_queue stream;

  explicit Device(const fluxd_device &device) : device(device) {
    check(device.create_stream(device.context, &stream), device);
  }
  ~Device() { device.destroy_stream(device.context, stream); }
  Device(const Device &) = delete;

  void synchronize() const { check(device.synchronize(device.context, stream), device); }
};

// Device memory between two margins. It starts as NaNs, so that what an operator does not write
// shows, and the margins must keep them, so that what it writes beyond shows, too.
class Memory {
 public:
  Memory(Device &on, size_t bytes) : on_(on), bytes_(bytes) {
    const auto &device = on.device;
    check(device.alloc(device.context, bytes + 2 * kMargin, &memory_), device);
    const std::vector<unsigned char> poison(bytes + 2 * kMargin, kPoison);
    check(device.upload(device.context, memory_, poison.data(), poison.size(), on.stream), device);
    on.synchronize();
  }
  ~Memory() { on_.device.free(on_.device.context, memory_); }
  Memory(const Memory &) = delete;

  void *address() const { return static_cast<char *>(memory_) + kMargin; }

  void upload(const void *from) {
    const auto &device = on_.device;
    check(device.upload(device.context, address(), from, bytes_, on_.stream), device);
    on_.synchronize();
  }

  void download(void *to) const {
    std::vector<unsigned char> all(bytes_ + 2 * kMargin);
    const auto &device = on_.device;
    check(device.download(device.context, all.data(), memory_, all.size(), on_.stream), device);
    on_.synchronize();
    for (size_t i = 0; i < kMargin; i++) {
      expect(all[i] == kPoison && all[kMargin + bytes_ + i] == kPoison,
             "nothing written around a tensor");
    }
    std::memcpy(to, all.data() + kMargin, bytes_);
  }

 private:
  static constexpr size_t kMargin = 256;
  static constexpr unsigned char kPoison = 0xff;
  Device &on_;
  size_t bytes_;
  void *memory_ = nullptr;
};

// A tensor on the host and its copy on the device.
template <typename T>
struct Tensor {
  std::vector<T> host;
  Memory device;

  // An output.
  Tensor(Device &on, int64_t count)
      : host(static_cast<size_t>(count)), device(on, host.size() * sizeof(T)) {}
  // An input.
  Tensor(Device &on, std::vector<T> values)
      : host(std::move(values)), device(on, host.size() * sizeof(T)) {
    device.upload(host.data());
  }

  T *on() const { return static_cast<T *>(device.address()); }
  std::vector<T> result() const {
    std::vector<T> values(host.size());
    device.download(values.data());
    return values;
  }
};

template <typename T>
std::vector<T> randomValues(std::mt19937 &random, int64_t count, float spread = 1, float mean = 0) {
  std::normal_distribution<float> normal(mean, spread);
  std::vector<T> values(static_cast<size_t>(count));
  for (auto &value : values) value = fluxd::fromFloat<T>(normal(random));
  return values;
}

template <typename T>
std::vector<float> floats(const std::vector<T> &values) {
  std::vector<float> result;
  for (const auto &value : values) result.push_back(fluxd::toFloat(value));
  return result;
}

inline std::vector<float> dequantized(const std::vector<E4m3> &values,
                                      const std::vector<float> &scales) {
  std::vector<float> result = floats(values);
  const size_t width = scales.empty() ? 1 : values.size() / scales.size();
  for (size_t i = 0; i < result.size(); i++) result[i] *= scales[i / width];
  return result;
}

// ‖got − want‖ / ‖want‖, or an eighth of the largest error of a single value where that is more: in
// millions of values the norm alone would hide a wrong row. A value's error is relative to itself
// and to all in the root mean square. Infinite if a value of either is not finite.
inline double relativeError(const std::vector<float> &got, const std::vector<float> &want) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < want.size(); i++) {
    if (!std::isfinite(got[i]) || !std::isfinite(want[i])) return INFINITY;
    difference += std::pow(double(got[i]) - want[i], 2);
    size += std::pow(double(want[i]), 2);
  }
  if (size == 0) return std::sqrt(difference);
  const double typical = std::sqrt(size / double(want.size()));
  double largest = 0;
  for (size_t i = 0; i < want.size(); i++) {
    const double single = std::abs(double(got[i]) - want[i]);
    largest = std::max(largest, single / (std::abs(double(want[i])) + typical));
  }
  return std::max(std::sqrt(difference / size), largest / 8);
}

template <typename T>
bool sameBits(const std::vector<T> &a, const std::vector<T> &b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

}  // namespace gpu
