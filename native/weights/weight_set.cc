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

bool isMatrix(const WeightSource &source) { return source.dims.size() == 2; }

size_t scaleBytes(const WeightSource &source) {
  return source.dtype == FLUXD_E4M3 ? size_t(source.rows()) * sizeof(float) : 0;
}

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
    : device_(device),
      basePlace_(base),
      options_(options),
      current_(std::make_unique<Factors>(device, options)),
      next_(std::make_unique<Factors>(device, options)) {
  for (auto &source : sources) add(std::move(source));
  allocate();
  if (basePlace_ == BasePlace::device) allocateBase();
  std::vector<Transfer> transfers;
  for (auto &[name, source] : sources_) {
    addAll(transfers, source, source.dtype, weights_.at(name).values);
    if (auto base = baseOf_.find(name); base != baseOf_.end())
      addAll(transfers, source, source.baseDtype(), base->second);
  }
  Uploader(device_, options_).carry(transfers);
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

void WeightSet::addAll(std::vector<Transfer> &transfers, const WeightSource &source,
                       fluxd_dtype dtype, void *to) const {
  auto own = transfersOf(source, dtype, {0, source.rows()}, to);
  transfers.insert(transfers.end(), own.begin(), own.end());
}

// Gives every weight its place in one block of memory.
void WeightSet::allocate() {
  size_t bytes = 0;
  for (auto &[name, source] : sources_)
    bytes += aligned(valueBytes(source, source.dtype)) + aligned(scaleBytes(source));
  memory_ = DeviceMemory(device_, bytes);

  std::byte *next = advance(memory_.get(), 0);
  for (auto &[name, source] : sources_) {
    const size_t values = valueBytes(source, source.dtype);
    const bool isScaled = scaleBytes(source) > 0;
    auto scale = isScaled ? reinterpret_cast<float *>(next + aligned(values)) : nullptr;
    weights_[name] = {source.dims, source.dtype, next, values, scale};
    next += aligned(values) + aligned(scaleBytes(source));
  }
}

// And every matrix a place for its base in another.
void WeightSet::allocateBase() {
  size_t bytes = 0;
  for (auto &[name, source] : sources_)
    if (isMatrix(source)) bytes += aligned(valueBytes(source, source.baseDtype()));
  base_ = DeviceMemory(device_, bytes);

  std::byte *next = advance(base_.get(), 0);
  for (auto &[name, source] : sources_) {
    if (!isMatrix(source)) continue;
    baseOf_[name] = next;
    next += aligned(valueBytes(source, source.baseDtype()));
  }
}

void WeightSet::keepBase() {
  checkChanges({});
  if (base_) return;
  allocateBase();
  try {
    std::vector<Transfer> transfers;
    for (auto &[name, base] : baseOf_) {
      const auto &source = sources_.at(name);
      const auto &weight = weights_.at(name);
      // Rows that still hold their base are not read from the file again.
      if (weight.dtype == source.baseDtype() && !changed_.contains(name))
        check(device_, device_.copy(device_.context, base, weight.values, weight.bytes,
                                    current_->stream().get()));
      else
        addAll(transfers, source, source.baseDtype(), base);
    }
    Uploader(device_, options_).carry(transfers);
    current_->stream().synchronize();
  } catch (...) {
    device_.synchronize(device_.context, current_->stream().get());
    dropBase();
    throw;
  }
}

void WeightSet::dropBase() {
  checkChanges({});
  baseOf_.clear();
  base_ = DeviceMemory();
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
  for (auto &change : changes) {
    auto &dims = at(change.name).dims;
    const int64_t end = change.begin + change.rows;
    if (dims.size() != 2 || change.begin < 0 || change.rows <= 0 || end > dims[0])
      throw std::invalid_argument(change.name + ": expected a change of its rows but got rows " +
                                  std::to_string(change.begin) + " to " + std::to_string(end));
  }
  for (auto &[name, rows] : rowsOf(changes))
    for (size_t i = 1; i < rows.size(); i++)
      if (rows[i].begin < rows[i - 1].begin + rows[i - 1].count)
        throw std::invalid_argument(name + ": expected one change per row");
}

}  // namespace fluxd
