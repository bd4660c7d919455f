// A device in host memory that does nothing until it must: what is enqueued waits until a stream
// is synchronised or an event of it is waited for. Host code that reuses or frees memory too early
// therefore goes wrong here, as it would on a GPU. It counts memory and can be made to fail.
#pragma once
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "fluxd/kernels.h"

namespace fluxd {

class LazyDevice {
 public:
  explicit LazyDevice(size_t capacity);

  const fluxd_device &table() const { return table_; }
  size_t used() const { return used_; }
  size_t mostUsed() const { return mostUsed_; }
  int live() const { return live_; }
  // So far: calls that allocate or create, calls that wait for a stream, and rows to be merged.
  int allocations() const { return allocations_; }
  int synchronizations() const { return synchronizations_; }
  int64_t mergedRows() const { return mergedRows_; }
  // The call of a function which fails; 0 is never.
  void failUploadAfter(int calls) { uploadsUntilFailure_ = calls; }
  void failMergeAfter(int calls) { mergesUntilFailure_ = calls; }

 private:
  struct LazyStream {
    LazyDevice *device;
    std::vector<std::function<void()>> work;
  };
  struct LazyEvent {
    LazyStream *stream = nullptr;
    size_t position = 0;
  };

  int fail(const std::string &why);
  bool isMergeFailing() { return mergesUntilFailure_ > 0 && --mergesUntilFailure_ == 0; }
  static void drain(LazyStream &stream, size_t count);
  int allocate(size_t bytes, void **memory, bool counted);
  void release(void *memory);

  template <typename Op, int (*fluxd_kernels::*kernel)(const Op *, fluxd_queue)>
  static int enqueue(const Op *op, fluxd_queue queue) {
    Op copy = *op;
    auto stream = static_cast<LazyStream *>(queue);
    if constexpr (std::is_same_v<Op, fluxd_merge>) {
      if (stream->device->isMergeFailing()) return stream->device->fail("the GPU is broken");
      stream->device->mergedRows_ += op->out;
    }
    stream->work.push_back(
        [copy] { (fluxd_cpu_kernels()->*kernel)(&copy, nullptr); });
    return 0;
  }

  std::mutex mutex_;
  size_t capacity_, used_ = 0, mostUsed_ = 0;
  int live_ = 0, uploadsUntilFailure_ = 0, mergesUntilFailure_ = 0;
  std::atomic<int> allocations_ = 0, synchronizations_ = 0;
  int64_t mergedRows_ = 0;
  std::map<void *, size_t> blocks_;
  fluxd_kernels kernels_;
  fluxd_device table_;
};

}  // namespace fluxd
