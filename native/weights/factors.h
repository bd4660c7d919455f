// The factors of low-rank changes on a device. They come in one copy of few pieces and stay, so
// that merging them again with other scales uploads nothing but those.
#pragma once
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "memory.h"
#include "upload.h"

namespace fluxd {

// rows [begin, begin + rows) = base + (up ⊙ scale)·down; up [rows, rank], down [rank, width].
struct LowRankChange {
  std::string name;
  int64_t begin, rows, rank;
  const float *up, *down;
  // [rank], for several LoRAs side by side; without it all are 1.
  const float *scale = nullptr;
};

// One thread at a time. What is enqueued runs on a stream of its own, not on those of sessions.
class Factors {
 public:
  Factors(const fluxd_device &device, const UploadOptions &options);

  // Puts these in the place of what was loaded before, and enqueues their copies; returns when the
  // values have been read. Allocates only where they are larger than all before.
  void load(const std::vector<LowRankChange> &changes,
            const std::function<int64_t(const std::string &name)> &widthOf);

  // Gives the loaded changes other scales, one list for each change.
  void rescale(const std::vector<std::vector<float>> &scales);

  // As loaded, with pointers of the device, for operators on this stream. Throws where the last
  // load failed.
  const std::vector<LowRankChange> &changes() const;
  const Stream &stream() const { return stream_; }

 private:
  // Values and their place in the device's memory.
  struct Span {
    size_t at;
    const float *values;
    size_t bytes;
  };
  // A buffer and the event after which it may be filled again.
  struct Piece {
    Piece(const fluxd_device &device, size_t bytes) : pinned(device, bytes), sent(device) {}
    PinnedMemory pinned;
    Event sent;
  };
  // Spans in the order of their places.
  using Image = std::vector<Span>;

  void reserve(size_t bytes);
  void carry(const Image &image);
  void fill(const Image &image, size_t begin, size_t bytes, std::byte *to) const;
  const float *onDevice(const Span &span) const;

  const fluxd_device &device_;
  const UploadOptions options_;
  std::vector<LowRankChange> changes_;
  bool loaded_ = true;
  DeviceMemory memory_;
  // Two, so that one is filled while the other is on its way; from the first load on.
  std::optional<Piece> pieces_[2];
  // Destroyed first: its destructor waits for its work.
  Stream stream_;
};

}  // namespace fluxd
