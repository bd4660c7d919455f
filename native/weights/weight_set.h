// The weights of a network on a device. Each is as the checkpoint has it (its base) or with
// low-rank changes; changes are always computed from the base, so they never add up errors.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "convert.h"
#include "factors.h"
#include "file.h"
#include "memory.h"
#include "upload.h"

namespace fluxd {

// Values of a weight that lie together: in a file, or, where `file` is empty, in memory that the
// caller keeps.
struct WeightPart {
  std::string file;
  size_t offset = 0;
  const void *memory = nullptr;
  int64_t rows = 0;
  StoredDtype stored = StoredDtype::f32;
  float scale = 1;
};

// The rows of its parts, one after the other.
struct WeightSource {
  std::string name;
  std::vector<int64_t> dims;
  // F32, BF16 or, for matrices, E4M3 with a scale per row.
  fluxd_dtype dtype;
  std::vector<WeightPart> parts;

  int64_t rows() const { return dims.empty() ? 1 : dims[0]; }
  int64_t width() const;
  // What it is merged in and quantised from: BF16 only where that loses nothing.
  fluxd_dtype baseDtype() const;
};

struct Weight {
  std::vector<int64_t> dims;
  fluxd_dtype dtype;
  void *values;
  size_t bytes;
  // [dims[0]]; E4M3 only.
  float *scale;
};

struct Rows {
  int64_t begin, count;
};
using RowsByName = std::map<std::string, std::vector<Rows>>;

// The rows of each weight that changes, in order.
RowsByName rowsOf(const std::vector<LowRankChange> &changes);

// Where the base is read from when changes are merged.
enum class BasePlace {
  // Nowhere: nothing can be merged, and nothing but the weights is kept.
  none,
  // From the files again: no device memory, bound by the bus.
  files,
  // From a copy on the device: at once, for twice the memory.
  device,
};

class WeightSet {
 public:
  // Uploads all weights. Throws, and frees, where a file or the device's memory does not suffice.
  WeightSet(const fluxd_device &device, std::vector<WeightSource> sources, BasePlace base,
            const UploadOptions &options);

  const Weight &at(const std::string &name) const;
  const std::map<std::string, Weight> &weights() const { return weights_; }
  // Of the weights and their base, without factors.
  size_t bytes() const { return memory_.bytes() + base_.bytes(); }

  // Makes every weight its base with these changes, and with no others. The working copy is written
  // in place, so sessions over it see the new weights in their next run; none may be running.
  // After a failure the weights are undefined until a later merge succeeds, which sets all of them.
  void merge(const std::vector<LowRankChange> &changes);

  // The same in two steps. stage uploads the factors next to those in use and changes no weight, so
  // sessions may be running; one other thread may call it at any time. swap merges them and keeps
  // those that were in use: another swap goes back to them.
  void stage(const std::vector<LowRankChange> &changes);
  void swap();

  // Makes or frees the copy of the base on the device, from which merges are much faster; weights
  // stay as they are. keepBase throws, and has changed nothing, where memory does not suffice.
  void keepBase();
  void dropBase();

  // Merges the factors in use with other scales, a list of its rank for each change.
  void rescale(const std::vector<std::vector<float>> &scales);

 private:
  void add(WeightSource source);
  void allocate();
  void allocateBase();
  void addAll(std::vector<Transfer> &transfers, const WeightSource &source, fluxd_dtype dtype,
              void *to) const;
  std::vector<Transfer> transfersOf(const WeightSource &source, fluxd_dtype dtype, Rows rows,
                                    void *to) const;
  void forEachPiece(const WeightSource &source, Rows rows,
                    const std::function<void(const WeightPart &, const std::byte *, Rows)> &) const;
  Transfer quantizing(const StoredValues &stored, const std::string &name, Rows rows) const;
  void addCodes(std::vector<Transfer> &transfers, const StoredValues &stored,
                const std::string &name, Rows rows) const;
  void checkChanges(const std::vector<LowRankChange> &changes) const;
  const void *baseRows(const LowRankChange &change, DeviceMemory &fetched,
                       Uploader &uploader) const;
  void load(Factors &factors, const std::vector<LowRankChange> &changes) const;
  void apply();
  void restore(const RowsByName &changed, const RowsByName &written, Uploader &uploader);
  void restoreRows(const std::string &name, Rows rows, std::vector<Transfer> &transfers,
                   Uploader &uploader);
  void launch(const LowRankChange &change, Uploader &uploader);

  const fluxd_device &device_;
  const BasePlace basePlace_;
  const UploadOptions options_;
  std::map<std::string, MappedFile> files_;
  std::map<std::string, WeightSource> sources_;
  std::map<std::string, Weight> weights_;
  // Of weights whose e4m3 codes come from a file.
  std::map<std::string, std::vector<float>> storedScales_;
  // Rows that may differ from their base.
  RowsByName changed_;
  DeviceMemory memory_;
  // In each weight's baseDtype; empty unless the base is kept on the device.
  DeviceMemory base_;
  std::map<std::string, void *> baseOf_;
  std::unique_ptr<Factors> current_, next_;
  // Held while next_ is loaded or exchanged.
  std::mutex staging_;
};

}  // namespace fluxd
