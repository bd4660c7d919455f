#include "weight_set.h"

#include <algorithm>
#include <stdexcept>

namespace fluxd {

namespace {

// The scale of each row, if any of them is stored in e4m3.
std::map<std::string, std::vector<float>> scalesOf(const WeightSource &source) {
  std::vector<float> scales;
  bool any = false;
  for (auto &part : source.parts) {
    scales.insert(scales.end(), size_t(part.rows), part.scale);
    any = any || part.stored == StoredDtype::e4m3;
  }
  if (!any) return {};
  return {{source.name, std::move(scales)}};
}

void checkSource(const WeightSource &source) {
  int64_t rows = 0;
  for (auto &part : source.parts) rows += part.rows;
  if (rows != source.rows())
    throw std::invalid_argument(source.name + ": expected parts of " +
                                std::to_string(source.rows()) + " rows but they have " +
                                std::to_string(rows));
  if (source.dtype == FLUXD_E4M3 && source.dims.size() != 2)
    throw std::invalid_argument(source.name + ": expected a matrix to quantise");
}

size_t valueBytes(const WeightSource &source, fluxd_dtype dtype) {
  return size_t(source.rows() * source.width()) * bytesOf(dtype);
}

size_t scaleBytes(const WeightSource &source) {
  return source.dtype == FLUXD_E4M3 ? size_t(source.rows()) * sizeof(float) : 0;
}

// What a weight takes of a block in which all are aligned.
size_t aligned(size_t bytes) { return (bytes + 255) / 256 * 256; }

}  // namespace

int64_t WeightSource::width() const {
  int64_t width = 1;
  for (size_t i = 1; i < dims.size(); i++) width *= dims[i];
  return width;
}

fluxd_dtype WeightSource::baseDtype() const {
  if (dtype != FLUXD_E4M3) return dtype;
  for (auto &part : parts)
    if (part.stored != StoredDtype::bf16) return FLUXD_F32;
  return FLUXD_BF16;
}

WeightSet::WeightSet(const fluxd_device &device, std::vector<WeightSource> sources, BasePlace base,
                     const UploadOptions &options)
    : device_(device), basePlace_(base), options_(options) {
  for (auto &source : sources) add(std::move(source));
  allocate();
  std::vector<Transfer> transfers;
  for (auto &[name, source] : sources_) {
    const Rows all = {0, source.rows()};
    auto own = transfersOf(source, source.dtype, all, weights_.at(name).values);
    transfers.insert(transfers.end(), own.begin(), own.end());
    if (!baseOf_.contains(name)) continue;
    auto copy = transfersOf(source, source.baseDtype(), all, baseOf_.at(name));
    transfers.insert(transfers.end(), copy.begin(), copy.end());
  }
  upload(device_, transfers, options_);
  if (basePlace_ != BasePlace::none) return;
  files_.clear();
  sources_.clear();
}

// Checks a source and opens its files.
void WeightSet::add(WeightSource source) {
  checkSource(source);
  for (auto &part : source.parts)
    if (!part.memory && !files_.contains(part.file)) files_.try_emplace(part.file, part.file);
  if (source.dtype == FLUXD_E4M3) storedScales_.merge(scalesOf(source));
  const std::string name = source.name;
  if (!sources_.emplace(name, std::move(source)).second)
    throw std::invalid_argument(name + ": expected one weight of this name but got two");
}

// Gives every weight its place in one block of memory, and in another for its base.
void WeightSet::allocate() {
  const auto keepsBase = [&](const WeightSource &source) {
    return basePlace_ == BasePlace::device && source.dims.size() == 2;
  };
  size_t bytes = 0, baseBytes = 0;
  for (auto &[name, source] : sources_) {
    bytes += aligned(valueBytes(source, source.dtype)) + aligned(scaleBytes(source));
    if (keepsBase(source)) baseBytes += aligned(valueBytes(source, source.baseDtype()));
  }
  memory_ = DeviceMemory(device_, bytes);
  if (baseBytes > 0) base_ = DeviceMemory(device_, baseBytes);

  std::byte *next = advance(memory_.get(), 0), *nextBase = advance(base_.get(), 0);
  for (auto &[name, source] : sources_) {
    const size_t values = valueBytes(source, source.dtype);
    auto scale = scaleBytes(source) > 0 ? reinterpret_cast<float *>(next + aligned(values)) : nullptr;
    weights_[name] = {source.dims, source.dtype, next, values, scale};
    next += aligned(values) + aligned(scaleBytes(source));
    if (!keepsBase(source)) continue;
    baseOf_[name] = nextBase;
    nextBase += aligned(valueBytes(source, source.baseDtype()));
  }
}

const Weight &WeightSet::at(const std::string &name) const {
  auto found = weights_.find(name);
  if (found == weights_.end())
    throw std::invalid_argument("expected the name of a weight but got " + name);
  return found->second;
}

void WeightSet::checkChanges(const std::vector<LowRankChange> &changes) const {
  if (basePlace_ == BasePlace::none)
    throw std::logic_error("expected weights with a base to merge into but none was kept");
  std::map<std::string, std::vector<Rows>> touched;
  for (auto &change : changes) {
    auto &dims = at(change.name).dims;
    const int64_t end = change.begin + change.rows;
    if (dims.size() != 2 || change.begin < 0 || change.rows <= 0 || end > dims[0])
      throw std::invalid_argument(change.name + ": expected a change of its rows but got rows " +
                                  std::to_string(change.begin) + " to " + std::to_string(end));
    for (auto &[begin, count] : touched[change.name])
      if (change.begin < begin + count && begin < end)
        throw std::invalid_argument(change.name + ": expected one change per row");
    touched[change.name].push_back({change.begin, change.rows});
  }
}

void WeightSet::merge(const std::vector<LowRankChange> &changes) {
  checkChanges(changes);
  // A weight stays in this list until it is known to be its base again.
  while (!changed_.empty()) {
    restore(*changed_.begin());
    changed_.erase(changed_.begin());
  }
  for (auto &change : changes) {
    changed_.insert(change.name);
    apply(change);
  }
}

void WeightSet::restore(const std::string &name) {
  const auto &weight = at(name);
  // Not for codes that were stored: quantising them anew would not give them back.
  if (baseOf_.contains(name) && !storedScales_.contains(name))
    return apply({name, 0, weight.dims[0], 0, nullptr, nullptr});
  const Rows all = {0, weight.dims[0]};
  upload(device_, transfersOf(sources_.at(name), weight.dtype, all, weight.values), options_);
}

// The base of the change's rows on the device; `fetched` keeps it if it comes from the files.
const void *WeightSet::baseRows(const LowRankChange &change, DeviceMemory &fetched) const {
  const auto &source = sources_.at(change.name);
  const size_t rowBytes = size_t(source.dims[1]) * bytesOf(source.baseDtype());
  if (auto kept = baseOf_.find(change.name); kept != baseOf_.end())
    return advance(kept->second, size_t(change.begin) * rowBytes);
  fetched = DeviceMemory(device_, size_t(change.rows) * rowBytes);
  const Rows rows = {change.begin, change.rows};
  const auto transfers = transfersOf(source, source.baseDtype(), rows, fetched.get());
  upload(device_, transfers, options_);
  return fetched.get();
}

// Writes base + up·down over the rows; with rank 0 this restores them.
void WeightSet::apply(const LowRankChange &change) {
  const auto &weight = at(change.name);
  const int64_t width = weight.dims[1];
  DeviceMemory fetched, up, down;
  const void *base = baseRows(change, fetched);
  Stream stream(device_);
  auto send = [&](const float *values, int64_t count) {
    const size_t bytes = size_t(count) * sizeof(float);
    DeviceMemory memory(device_, bytes);
    check(device_, device_.upload(device_.context, memory.get(), values, bytes, stream.get()));
    return memory;
  };
  if (change.rank > 0) {
    up = send(change.up, change.rows * change.rank);
    down = send(change.down, change.rank * width);
  }
  auto merged = advance(weight.values, size_t(change.begin * width) * bytesOf(weight.dtype));
  fluxd_merge op = {.out = change.rows,
                    .in = width,
                    .rank = change.rank,
                    .dtype = sources_.at(change.name).baseDtype(),
                    .merged_dtype = weight.dtype,
                    .base = base,
                    .up = static_cast<const float *>(up.get()),
                    .down = static_cast<const float *>(down.get()),
                    .merged = merged,
                    .merged_scale = weight.scale ? weight.scale + change.begin : nullptr};
  check(device_, device_.kernels->merge(&op, stream.get()));
  stream.synchronize();
}

}  // namespace fluxd
