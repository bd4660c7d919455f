#include "factors.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <thread>

namespace fluxd {

namespace {

// From about this size on a thread is worth its start.
constexpr size_t leastShare = size_t{256} << 10;

size_t mostRank(const std::vector<LowRankChange> &changes) {
  int64_t most = 0;
  for (auto &change : changes) most = std::max(most, change.rank);
  return size_t(most);
}

}  // namespace

Factors::Factors(const fluxd_device &device, const UploadOptions &options)
    : device_(device), options_(options), stream_(device) {}

const std::vector<LowRankChange> &Factors::changes() const {
  if (!loaded_) throw std::logic_error("expected changes on the device but their upload failed");
  return changes_;
}

void Factors::load(const std::vector<LowRankChange> &changes,
                   const std::function<int64_t(const std::string &name)> &widthOf) {
  loaded_ = false;
  const std::vector<float> ones(mostRank(changes), 1.0f);
  Image image;
  size_t end = 0;
  const auto place = [&](const float *values, int64_t count) {
    image.push_back({end, values, size_t(count) * sizeof(float)});
    end += aligned(image.back().bytes);
  };
  // Scales lie together, for rescale.
  for (auto &change : changes) place(change.scale ? change.scale : ones.data(), change.rank);
  for (auto &change : changes) {
    place(change.up, change.rows * change.rank);
    place(change.down, change.rank * widthOf(change.name));
  }
  reserve(end);
  carry(image);
  changes_ = changes;
  for (size_t i = 0; i < changes.size(); i++) {
    changes_[i].scale = onDevice(image[i]);
    changes_[i].up = onDevice(image[changes.size() + 2 * i]);
    changes_[i].down = onDevice(image[changes.size() + 2 * i + 1]);
  }
  loaded_ = true;
}

void Factors::rescale(const std::vector<std::vector<float>> &scales) {
  if (scales.size() != changes().size())
    throw std::invalid_argument("expected scales of " + std::to_string(changes_.size()) +
                                " changes but got " + std::to_string(scales.size()));
  Image image;
  for (size_t i = 0; i < scales.size(); i++) {
    auto &change = changes_[i];
    if (scales[i].size() != size_t(change.rank))
      throw std::invalid_argument(change.name + ": expected " + std::to_string(change.rank) +
                                  " scales but got " + std::to_string(scales[i].size()));
    const size_t at = reinterpret_cast<const std::byte *>(change.scale) - advance(memory_.get(), 0);
    image.push_back({at, scales[i].data(), scales[i].size() * sizeof(float)});
  }
  // When one copy fails, others may have arrived.
  loaded_ = false;
  carry(image);
  loaded_ = true;
}

void Factors::reserve(size_t bytes) {
  if (bytes == 0) return;
  for (auto &piece : pieces_)
    if (!piece) piece.emplace(device_, options_.transferBytes);
  if (bytes <= memory_.bytes()) return;
  stream_.synchronize();
  // The old factors are freed first, so that both need not fit.
  { DeviceMemory freed = std::move(memory_); }
  memory_ = DeviceMemory(device_, bytes);
}

// Copies an image that starts at the memory's first byte.
void Factors::carry(const Image &image) {
  const size_t end = image.empty() ? 0 : image.back().at + image.back().bytes;
  size_t turn = 0;
  for (size_t begin = 0; begin < end; begin += options_.transferBytes) {
    auto &[pinned, sent] = *pieces_[turn++ % 2];
    sent.wait();
    const size_t bytes = std::min(options_.transferBytes, end - begin);
    fill(image, begin, bytes, advance(pinned.get(), 0));
    check(device_, device_.upload(device_.context, advance(memory_.get(), begin), pinned.get(),
                                  bytes, stream_.get()));
    sent.record(stream_);
  }
}

// Writes bytes [begin, begin + bytes) of an image, by several threads.
void Factors::fill(const Image &image, size_t begin, size_t bytes, std::byte *to) const {
  const auto write = [&](size_t first, size_t last) {
    auto span = std::partition_point(image.begin(), image.end(), [&](const Span &each) {
      return each.at + each.bytes <= first;
    });
    for (; span != image.end() && span->at < last; ++span) {
      const size_t from = std::max(first, span->at);
      const size_t until = std::min(last, span->at + span->bytes);
      if (from < until)
        std::memcpy(to + (from - begin),
                    reinterpret_cast<const std::byte *>(span->values) + (from - span->at),
                    until - from);
    }
  };
  const size_t most = size_t(std::max(options_.threads, 1));
  const size_t threads = std::clamp<size_t>(bytes / leastShare, 1, most);
  const size_t share = (bytes + threads - 1) / threads, end = begin + bytes;
  std::vector<std::jthread> helpers;
  for (size_t first = begin + share; first < end; first += share)
    helpers.emplace_back(write, first, std::min(first + share, end));
  write(begin, std::min(begin + share, end));
}

const float *Factors::onDevice(const Span &span) const {
  return reinterpret_cast<const float *>(advance(memory_.get(), span.at));
}

}  // namespace fluxd
