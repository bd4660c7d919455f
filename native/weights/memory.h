// Owners of what a device hands out, and its errors as exceptions.
#pragma once
#include <cstddef>
#include <string>
#include <utility>

#include "fluxd/kernels.h"

namespace fluxd {

// A device's failure, with its sentence, becomes a std::runtime_error.
void check(const fluxd_device &device, int error);

inline std::byte *advance(void *memory, size_t bytes) {
  return static_cast<std::byte *>(memory) + bytes;
}

// The bytes that an object takes in a block of aligned objects.
inline size_t aligned(size_t bytes) { return (bytes + 255) / 256 * 256; }

class DeviceMemory {
 public:
  DeviceMemory() = default;
  // Throws, with both numbers, if the device has less free.
  DeviceMemory(const fluxd_device &device, size_t bytes);
  DeviceMemory(DeviceMemory &&other) noexcept { swap(other); }
  DeviceMemory &operator=(DeviceMemory &&other) noexcept {
    swap(other);
    return *this;
  }
  ~DeviceMemory();

  void *get() const { return memory_; }
  size_t bytes() const { return bytes_; }
  explicit operator bool() const { return device_; }

 private:
  void swap(DeviceMemory &other) {
    std::swap(device_, other.device_);
    std::swap(memory_, other.memory_);
    std::swap(bytes_, other.bytes_);
  }

  const fluxd_device *device_ = nullptr;
  void *memory_ = nullptr;
  size_t bytes_ = 0;
};

// Host memory that copies read while the host goes on.
class PinnedMemory {
 public:
  PinnedMemory(const fluxd_device &device, size_t bytes);
  PinnedMemory(const PinnedMemory &) = delete;
  ~PinnedMemory() { device_.free_host(device_.context, memory_); }

  void *get() const { return memory_; }

 private:
  const fluxd_device &device_;
  void *memory_ = nullptr;
};

class Stream {
 public:
  explicit Stream(const fluxd_device &device);
  Stream(const Stream &) = delete;
  // Waits, because what is enqueued may use memory that is freed next.
  ~Stream();

  fluxd_queue get() const { return stream_; }
  void synchronize() const;

 private:
  const fluxd_device &device_;
  fluxd_queue stream_ = nullptr;
};

// A point of a stream.
class Event {
 public:
  explicit Event(const fluxd_device &device);
  Event(const Event &) = delete;
  ~Event() { device_.destroy_event(device_.context, event_); }

  void record(const Stream &stream) const;
  // Until the point last recorded is reached.
  void wait() const;

 private:
  const fluxd_device &device_;
  void *event_ = nullptr;
};

}  // namespace fluxd
