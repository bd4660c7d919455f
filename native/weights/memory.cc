#include "memory.h"

#include <stdexcept>

namespace fluxd {

void check(const fluxd_device &device, int error) {
  if (error) throw std::runtime_error(device.kernels->last_error());
}

DeviceMemory::DeviceMemory(const fluxd_device &device, size_t bytes) {
  if (device.alloc(device.context, bytes, &memory_) == 0) {
    device_ = &device;
    bytes_ = bytes;
    return;
  }
  const std::string reason = device.kernels->last_error();
  size_t free = 0, total = 0;
  check(device, device.memory(device.context, &free, &total));
  throw std::runtime_error("expected " + std::to_string(bytes) + " bytes of device memory but " +
                           std::to_string(free) + " of " + std::to_string(total) + " are free (" +
                           reason + ")");
}

DeviceMemory::~DeviceMemory() {
  if (device_) device_->free(device_->context, memory_);
}

PinnedMemory::PinnedMemory(const fluxd_device &device, size_t bytes) : device_(device) {
  check(device, device.alloc_host(device.context, bytes, &memory_));
}

Stream::Stream(const fluxd_device &device) : device_(device) {
  check(device, device.create_stream(device.context, &stream_));
}

Stream::~Stream() {
  device_.synchronize(device_.context, stream_);
  device_.destroy_stream(device_.context, stream_);
}

void Stream::synchronize() const {
  check(device_, device_.synchronize(device_.context, stream_));
}

Event::Event(const fluxd_device &device) : device_(device) {
  check(device, device.create_event(device.context, &event_));
}

void Event::record(const Stream &stream) const {
  check(device_, device_.record(device_.context, event_, stream.get()));
}

void Event::wait() const { check(device_, device_.wait(device_.context, event_)); }

}  // namespace fluxd
