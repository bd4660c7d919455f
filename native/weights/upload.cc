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

}  // namespace

// The stream goes first, and waits for its work, before the buffers it uses.
struct Uploader::Lane {
  Slot slots[2];
  Stream stream;

  Lane(const fluxd_device &device, size_t bytes)
      : slots{Slot(device, bytes), Slot(device, bytes)}, stream(device) {}

  void carryAll(Queue &queue) {
    for (size_t i = 0; auto transfer = queue.take(); i++) slots[i % 2].carry(*transfer, stream);
    stream.synchronize();
  }
};

Uploader::Uploader(const fluxd_device &device, const UploadOptions &options)
    : device_(device),
      transferBytes_(options.transferBytes),
      lanes_(size_t(std::max(options.threads, 1))) {}

Uploader::~Uploader() = default;

void Uploader::carry(const std::vector<Transfer> &transfers) {
  Queue queue(transfers);
  const auto work = [&](std::unique_ptr<Lane> &lane) {
    try {
      if (!lane) lane = std::make_unique<Lane>(device_, transferBytes_);
      lane->carryAll(queue);
    } catch (...) {
      // Waits for what is under way to memory that the caller may free now.
      lane.reset();
      queue.fail(std::current_exception());
    }
  };
  const size_t helpers = std::min(lanes_.size(), transfers.size());
  std::vector<std::thread> running;
  for (size_t i = 0; i < helpers; i++) running.emplace_back(work, std::ref(lanes_[i]));
  for (auto &thread : running) thread.join();
  queue.rethrow();
}

}  // namespace fluxd
