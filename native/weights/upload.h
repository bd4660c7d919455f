// The way of weights from mapped files to a device: through pinned buffers, so that reading,
// converting and copying overlap.
#pragma once
#include <functional>
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

// Carries out all transfers; returns when all have arrived. The first failure is thrown, after all
// threads have stopped.
void upload(const fluxd_device &device, const std::vector<Transfer> &transfers,
            const UploadOptions &options);

}  // namespace fluxd
