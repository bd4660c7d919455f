#include "upload.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>

namespace fluxd {

namespace {

// One of a thread's buffers: pinned memory, device memory for what needs finishing, and the event
// after which both may be used again.
class Slot {
 public:
  Slot(const fluxd_device &device, size_t bytes)
      : device_(device), scratch_(device, bytes), pinned_(device, bytes), sent_(device) {}

  void carry(const Transfer &transfer, const Stream &stream) {
    sent_.wait();
    convert(transfer.stored, pinned_.get(), transfer.dtype, transfer.count);
    void *target = transfer.finish ? scratch_.get() : transfer.to;
    const size_t bytes = transfer.count * bytesOf(transfer.dtype);
    check(device_, device_.upload(device_.context, target, pinned_.get(), bytes, stream.get()));
    if (transfer.finish) transfer.finish(target, stream.get());
    sent_.record(stream);
  }

 private:
  const fluxd_device &device_;
  DeviceMemory scratch_;
  PinnedMemory pinned_;
  Event sent_;
};

// The transfers that no thread has taken yet, and the first failure.
class Queue {
 public:
  explicit Queue(const std::vector<Transfer> &transfers) : transfers_(transfers) {}

  const Transfer *take() {
    const size_t i = next_++;
    return i < transfers_.size() ? &transfers_[i] : nullptr;
  }

  void fail(std::exception_ptr failure) {
    next_ = transfers_.size();
    std::lock_guard lock(mutex_);
    if (!failure_) failure_ = failure;
  }

  void rethrow() const {
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  const std::vector<Transfer> &transfers_;
  std::atomic<size_t> next_{0};
  std::mutex mutex_;
  std::exception_ptr failure_;
};

void carryAll(const fluxd_device &device, Queue &queue, size_t bytes) {
  try {
    // The stream goes first, and waits for its work, before the buffers it uses.
    Slot slots[2] = {Slot(device, bytes), Slot(device, bytes)};
    Stream stream(device);
    for (size_t i = 0; auto transfer = queue.take(); i++)
      slots[i % 2].carry(*transfer, stream);
    stream.synchronize();
  } catch (...) {
    queue.fail(std::current_exception());
  }
}

}  // namespace

void upload(const fluxd_device &device, const std::vector<Transfer> &transfers,
            const UploadOptions &options) {
  Queue queue(transfers);
  const size_t helpers = std::min<size_t>(std::max(options.threads, 1), transfers.size());
  std::vector<std::thread> running;
  for (size_t i = 0; i < helpers; i++)
    running.emplace_back([&] { carryAll(device, queue, options.transferBytes); });
  for (auto &thread : running) thread.join();
  queue.rethrow();
}

}  // namespace fluxd
