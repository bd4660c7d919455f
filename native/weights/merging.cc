// How a weight set changes: what the new changes write and what only the old ones had written, in
// one pass.
#include <algorithm>
#include <stdexcept>

#include "weight_set.h"

namespace fluxd {

namespace {

// The rows of `all` that are in none of `taken`; both are in order.
std::vector<Rows> without(Rows all, const std::vector<Rows> &taken) {
  std::vector<Rows> rest;
  int64_t begin = all.begin;
  const int64_t end = all.begin + all.count;
  for (auto &rows : taken) {
    const int64_t until = std::min(rows.begin, end);
    if (begin < until) rest.push_back({begin, until - begin});
    begin = std::max(begin, rows.begin + rows.count);
  }
  if (begin < end) rest.push_back({begin, end - begin});
  return rest;
}

void sort(std::vector<Rows> &rows) {
  std::sort(rows.begin(), rows.end(), [](Rows a, Rows b) { return a.begin < b.begin; });
}

// Adds the rows that `all` lacks; `all` stays in order and without overlap.
void addTo(std::vector<Rows> &all, const std::vector<Rows> &added) {
  const auto had = all;
  for (auto &rows : added)
    for (auto &rest : without(rows, had)) all.push_back(rest);
  sort(all);
}

}  // namespace

RowsByName rowsOf(const std::vector<LowRankChange> &changes) {
  RowsByName rows;
  for (auto &change : changes) rows[change.name].push_back({change.begin, change.rows});
  for (auto &[name, each] : rows) sort(each);
  return rows;
}

void WeightSet::merge(const std::vector<LowRankChange> &changes) {
  checkChanges(changes);
  load(*current_, changes);
  apply();
}

void WeightSet::stage(const std::vector<LowRankChange> &changes) {
  checkChanges(changes);
  std::lock_guard lock(staging_);
  load(*next_, changes);
}

void WeightSet::swap() {
  checkChanges({});
  {
    std::lock_guard lock(staging_);
    next_->changes();
    std::swap(current_, next_);
  }
  apply();
}

void WeightSet::rescale(const std::vector<std::vector<float>> &scales) {
  current_->rescale(scales);
  apply();
}

void WeightSet::load(Factors &factors, const std::vector<LowRankChange> &changes) const {
  factors.load(changes, [&](const std::string &name) { return at(name).dims[1]; });
}

// Makes the weights the base with the current factors: all is enqueued, then waited for once.
void WeightSet::apply() {
  auto &changes = current_->changes();
  const auto now = rowsOf(changes), before = changed_;
  // Rows stay in this list until they are known to be their base again.
  for (auto &[name, rows] : now) addTo(changed_[name], rows);
  try {
    Uploader uploader(device_, options_);
    restore(before, now, uploader);
    for (auto &change : changes) launch(change, uploader);
    current_->stream().synchronize();
  } catch (...) {
    // The next merge may use another stream, so this one must have ended.
    device_.synchronize(device_.context, current_->stream().get());
    throw;
  }
  changed_ = now;
}

// Restores the base of rows that were changed and that this merge does not write.
void WeightSet::restore(const RowsByName &changed, const RowsByName &written, Uploader &uploader) {
  std::vector<Transfer> transfers;
  for (auto &[name, all] : changed) {
    const auto found = written.find(name);
    for (auto &rows : all)
      for (auto &rest : without(rows, found == written.end() ? std::vector<Rows>{} : found->second))
        restoreRows(name, rest, transfers, uploader);
  }
  uploader.carry(transfers);
}

// By an enqueued merge of rank 0, or by transfers, where the base is not on the device.
void WeightSet::restoreRows(const std::string &name, Rows rows, std::vector<Transfer> &transfers,
                            Uploader &uploader) {
  const auto &weight = at(name);
  // Not for codes that were stored: quantising them anew would not give them back.
  if (baseOf_.contains(name) && !storedScales_.contains(name))
    return launch({name, rows.begin, rows.count, 0, nullptr, nullptr}, uploader);
  const size_t begin = size_t(rows.begin * weight.dims[1]) * bytesOf(weight.dtype);
  const auto own =
      transfersOf(sources_.at(name), weight.dtype, rows, advance(weight.values, begin));
  transfers.insert(transfers.end(), own.begin(), own.end());
}

// The base of the change's rows on the device; `fetched` keeps it if it comes from the files.
const void *WeightSet::baseRows(const LowRankChange &change, DeviceMemory &fetched,
                                Uploader &uploader) const {
  const auto &source = sources_.at(change.name);
  const size_t rowBytes = size_t(source.dims[1]) * bytesOf(source.baseDtype());
  if (auto kept = baseOf_.find(change.name); kept != baseOf_.end())
    return advance(kept->second, size_t(change.begin) * rowBytes);
  fetched = DeviceMemory(device_, size_t(change.rows) * rowBytes);
  const Rows rows = {change.begin, change.rows};
  uploader.carry(transfersOf(source, source.baseDtype(), rows, fetched.get()));
  return fetched.get();
}

// Enqueues base + (up ⊙ scale)·down over the rows; with rank 0 this restores them.
void WeightSet::launch(const LowRankChange &change, Uploader &uploader) {
  const auto &weight = at(change.name);
  const int64_t width = weight.dims[1];
  const auto &stream = current_->stream();
  DeviceMemory fetched;
  const void *base = baseRows(change, fetched, uploader);
  auto merged = advance(weight.values, size_t(change.begin * width) * bytesOf(weight.dtype));
  fluxd_merge op = {.out = change.rows,
                    .in = width,
                    .rank = change.rank,
                    .dtype = sources_.at(change.name).baseDtype(),
                    .merged_dtype = weight.dtype,
                    .base = base,
                    .up = change.up,
                    .down = change.down,
                    .merged = merged,
                    .merged_scale = weight.scale ? weight.scale + change.begin : nullptr,
                    .rank_scale = change.scale};
  check(device_, device_.kernels->merge(&op, stream.get()));
  // What was fetched goes with this call.
  if (fetched) stream.synchronize();
}

}  // namespace fluxd
