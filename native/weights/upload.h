// The way of weights from mapped files to a device: through pinned buffers, so that reading,
// converting and copying overlap.
#pragma once
#include <functional>
#include <memory>
#include <vector>

#include "convert.h"
#include "memory.h"

namespace fluxd {

// Values that lie together in host memory and go together to the device.
struct Transfer {
  StoredValues stored;
  fluxd_dtype dtype;
  size_t count;
  // Called when the values are under way to `scratch`, in order on `stream`; makes of them what is
  // wanted. Without it they go to `to`.
  void *to;
  std::function<void(const void *scratch, fluxd_queue stream)> finish;
};

struct UploadOptions {
  int threads;
  // Size of one transfer on the device; each thread has two buffers of it.
  size_t transferBytes = size_t{16} << 20;
};

// Threads' buffers, from the first transfers on. They stay for the next ones: to pin one takes the
// system milliseconds, as its copy does.
class Uploader {
 public:
  Uploader(const fluxd_device &device, const UploadOptions &options);
  ~Uploader();

  // Carries out all transfers; returns when all have arrived. The first failure is thrown, after
  // all threads have stopped.
  void carry(const std::vector<Transfer> &transfers);

 private:
  struct Lane;

  const fluxd_device &device_;
  const size_t transferBytes_;
  // One for each thread.
  std::vector<std::unique_ptr<Lane>> lanes_;
};

}  // namespace fluxd
