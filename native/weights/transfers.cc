// How the rows of a weight set travel: in pieces, as they are stored, converted or quantised.
#include <algorithm>
#include <stdexcept>

#include "weight_set.h"

namespace fluxd {

// The rows of a weight, in pieces, in `dtype` to `to`; E4M3 goes to the weight itself.
std::vector<Transfer> WeightSet::transfersOf(const WeightSource &source, fluxd_dtype dtype,
                                             Rows rows, void *to) const {
  std::vector<Transfer> transfers;
  const auto add = [&](const WeightPart &part, const std::byte *values, Rows piece) {
    const int64_t width = source.width();
    const StoredValues stored = {values, part.stored, part.scale};
    const size_t count = size_t(piece.count * width);
    const size_t place = size_t((piece.begin - rows.begin) * width) * bytesOf(dtype);
    if (dtype != FLUXD_E4M3)
      transfers.push_back({stored, dtype, count, advance(to, place), nullptr});
    else if (part.stored == StoredDtype::e4m3)
      addCodes(transfers, stored, source.name, piece);
    else
      transfers.push_back(quantizing(stored, source.name, piece));
  };
  forEachPiece(source, rows, add);
  return transfers;
}

// Calls body(part, values, rows) for rows that fit into one transfer.
void WeightSet::forEachPiece(
    const WeightSource &source, Rows rows,
    const std::function<void(const WeightPart &, const std::byte *, Rows)> &body) const {
  const int64_t width = source.width();
  // Before they are quantised, values of a weight have at most this size on the device.
  const int64_t rowBytes = width * int64_t(bytesOf(source.baseDtype()));
  const int64_t most = int64_t(options_.transferBytes) / rowBytes;
  if (most == 0) throw std::invalid_argument(source.name + ": expected shorter rows");
  int64_t partBegin = 0;
  for (auto &part : source.parts) {
    const size_t storedRow = size_t(width) * bytesOf(part.stored);
    auto values = part.memory
                      ? static_cast<const std::byte *>(part.memory)
                      : files_.at(part.file).at(part.offset, size_t(part.rows) * storedRow);
    const int64_t end = std::min(partBegin + part.rows, rows.begin + rows.count);
    for (int64_t row = std::max(partBegin, rows.begin); row < end; row += most)
      body(part, values + size_t(row - partBegin) * storedRow, {row, std::min(most, end - row)});
    partBegin += part.rows;
  }
}

// Codes of a checkpoint that was quantised before stay as they are; all rows get its scale.
void WeightSet::addCodes(std::vector<Transfer> &transfers, const StoredValues &stored,
                         const std::string &name, Rows rows) const {
  const auto &weight = weights_.at(name);
  const size_t first = size_t(rows.begin * weight.dims[1]);
  const size_t count = size_t(rows.count * weight.dims[1]);
  transfers.push_back({stored, FLUXD_E4M3, count, advance(weight.values, first), nullptr});
  const auto &scales = storedScales_.at(name);
  transfers.push_back({{scales.data() + rows.begin, StoredDtype::f32, 1},
                       FLUXD_F32,
                       size_t(rows.count),
                       weight.scale + rows.begin,
                       nullptr});
}

Transfer WeightSet::quantizing(const StoredValues &stored, const std::string &name,
                               Rows rows) const {
  const auto &weight = weights_.at(name);
  const int64_t width = weight.dims[1];
  const auto dtype = sources_.at(name).baseDtype();
  const fluxd_quantize_rows op = {rows.count, width, dtype, nullptr,
                                  advance(weight.values, size_t(rows.begin * width)),
                                  weight.scale + rows.begin, nullptr, 0};
  auto finish = [op, this](const void *scratch, fluxd_queue stream) {
    auto call = op;
    call.x = scratch;
    check(device_, device_.kernels->quantize_rows(&call, stream));
  };
  return {stored, dtype, size_t(rows.count * width), nullptr, finish};
}

}  // namespace fluxd
