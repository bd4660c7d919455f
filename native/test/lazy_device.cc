#include "lazy_device.h"

#include <cstdlib>
#include <cstring>
#include <string>

namespace fluxd {

static thread_local std::string lastError;

static LazyDevice &self(void *context) { return *static_cast<LazyDevice *>(context); }

int LazyDevice::fail(const std::string &why) {
  lastError = why;
  return 1;
}

void LazyDevice::drain(LazyStream &stream, size_t count) {
  auto &work = stream.work;
  // What is done stays as an empty function, so that positions of events hold.
  for (size_t i = 0; i < count; i++) {
    if (work[i]) work[i]();
    work[i] = nullptr;
  }
}

int LazyDevice::allocate(size_t bytes, void **memory, bool counted) {
  std::lock_guard lock(mutex_);
  allocations_++;
  if (counted && bytes > capacity_ - used_) return fail("out of memory");
  *memory = std::aligned_alloc(256, (bytes + 511) / 256 * 256);
  blocks_[*memory] = counted ? bytes : 0;
  used_ += counted ? bytes : 0;
  mostUsed_ = std::max(mostUsed_, used_);
  live_++;
  return 0;
}

void LazyDevice::release(void *memory) {
  if (!memory) return;
  std::lock_guard lock(mutex_);
  used_ -= blocks_.at(memory);
  blocks_.erase(memory);
  live_--;
  std::free(memory);
}

LazyDevice::LazyDevice(size_t capacity) : capacity_(capacity), kernels_(*fluxd_cpu_kernels()) {
  kernels_.quantize_rows = enqueue<fluxd_quantize_rows, &fluxd_kernels::quantize_rows>;
  kernels_.merge = enqueue<fluxd_merge, &fluxd_kernels::merge>;
  kernels_.last_error = [] { return lastError.c_str(); };
  auto copy = [](void *, void *to, const void *from, size_t bytes, fluxd_queue queue) {
    static_cast<LazyStream *>(queue)->work.push_back([=] { std::memcpy(to, from, bytes); });
    return 0;
  };
  table_ = {
      .abi_version = FLUXD_ABI_VERSION,
      .kernels = &kernels_,
      .context = this,
      .memory =
          [](void *it, size_t *free, size_t *total) {
            std::lock_guard lock(self(it).mutex_);
            *free = self(it).capacity_ - self(it).used_;
            *total = self(it).capacity_;
            return 0;
          },
      .alloc = [](void *it, size_t bytes,
                  void **memory) { return self(it).allocate(bytes, memory, true); },
      .free =
          [](void *it, void *memory) {
            self(it).release(memory);
            return 0;
          },
      .alloc_host = [](void *it, size_t bytes,
                       void **memory) { return self(it).allocate(bytes, memory, false); },
      .free_host =
          [](void *it, void *memory) {
            self(it).release(memory);
            return 0;
          },
      .create_stream =
          [](void *it, fluxd_queue *stream) {
            self(it).allocations_++;
            *stream = new LazyStream{&self(it), {}};
            return 0;
          },
      .destroy_stream =
          [](void *, fluxd_queue stream) {
            delete static_cast<LazyStream *>(stream);
            return 0;
          },
      .synchronize =
          [](void *it, fluxd_queue queue) {
            self(it).synchronizations_++;
            auto &stream = *static_cast<LazyStream *>(queue);
            drain(stream, stream.work.size());
            return 0;
          },
      .upload =
          [](void *it, void *to, const void *from, size_t bytes, fluxd_queue queue) {
            auto &device = self(it);
            std::unique_lock lock(device.mutex_);
            if (device.uploadsUntilFailure_ > 0 && --device.uploadsUntilFailure_ == 0)
              return device.fail("the bus is broken");
            lock.unlock();
            static_cast<LazyStream *>(queue)->work.push_back(
                [=] { std::memcpy(to, from, bytes); });
            return 0;
          },
      .download = copy,
      .copy = copy,
      .create_event =
          [](void *it, void **event) {
            self(it).allocations_++;
            *event = new LazyEvent;
            return 0;
          },
      .destroy_event =
          [](void *, void *event) {
            delete static_cast<LazyEvent *>(event);
            return 0;
          },
      .record =
          [](void *, void *event, fluxd_queue queue) {
            auto stream = static_cast<LazyStream *>(queue);
            *static_cast<LazyEvent *>(event) = {stream, stream->work.size()};
            return 0;
          },
      .wait =
          [](void *, void *it) {
            auto &event = *static_cast<LazyEvent *>(it);
            if (event.stream) drain(*event.stream, event.position);
            return 0;
          },
  };
}

}  // namespace fluxd
