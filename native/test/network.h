// A small network of weights in memory, sets of low-rank changes of them, and their bits.
#pragma once
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "lazy_device.h"
#include "operands.h"
#include "weights/weight_set.h"

namespace fluxd {

constexpr size_t plenty = size_t{1} << 30;
constexpr int64_t rows = 48, width = 40;
// Factors of a few hundred bytes need several pieces.
constexpr UploadOptions smallPieces = {2, 2000};

// Weights in memory: two in bfloat16, one quantised, one whose codes are stored.
struct Network {
  std::mt19937 random{11};
  std::vector<Bf16> values = randomOperand<Bf16>(random, rows * width).stored;
  std::vector<E4m3> codes = randomOperand<E4m3>(random, rows * width).stored;
  std::vector<std::string> names = {"a", "b", "quantised", "stored"};

  std::vector<WeightSource> sources() const {
    const WeightPart half = {"", 0, values.data(), rows, StoredDtype::bf16, 1};
    const WeightPart quarter = {"", 0, codes.data(), rows, StoredDtype::e4m3, 0.5f};
    const std::vector<int64_t> dims = {rows, width};
    return {{"a", dims, FLUXD_BF16, {half}},
            {"b", dims, FLUXD_BF16, {half}},
            {"quantised", dims, FLUXD_E4M3, {half}},
            {"stored", dims, FLUXD_E4M3, {quarter}}};
  }
};

// A set of changes and the values they point to.
struct Changes {
  std::vector<std::vector<float>> values, scales;
  std::vector<LowRankChange> list;

  void add(std::mt19937 &random, const std::string &name, int64_t begin, int64_t count,
           int64_t rank) {
    const auto made = [&](int64_t size) {
      values.push_back(randomOperand<float>(random, size_t(size)).stored);
      return values.back().data();
    };
    const float *up = made(count * rank), *down = made(rank * width);
    scales.push_back(randomOperand<float>(random, size_t(rank)).stored);
    list.push_back({name, begin, count, rank, up, down, scales.back().data()});
  }

  void rescale(std::mt19937 &random) {
    for (size_t i = 0; i < list.size(); i++) {
      scales[i] = randomOperand<float>(random, scales[i].size()).stored;
      list[i].scale = scales[i].data();
    }
  }

  // The same with scaled values instead of scales.
  Changes scaled() const {
    Changes all = *this;
    for (size_t i = 0; i < list.size(); i++) {
      auto &up = all.values[2 * i];
      for (size_t k = 0; k < up.size(); k++) up[k] *= scales[i][k % scales[i].size()];
      all.list[i].up = up.data(), all.list[i].scale = nullptr;
    }
    return all;
  }
};

// One or two changes of each of some weights.
inline Changes randomChanges(std::mt19937 &random, const Network &network) {
  const auto below = [&](int64_t end) { return int64_t(random() % uint64_t(end)); };
  Changes changes;
  for (auto &name : network.names) {
    if (below(2) == 0) continue;
    const int64_t border = 1 + below(rows - 2);
    const int64_t begin = below(border);
    changes.add(random, name, begin, border - begin, 1 + below(5));
    if (below(2) == 0) changes.add(random, name, border, 1 + below(rows - border), 1 + below(5));
  }
  return changes;
}

inline std::string bitsOf(const WeightSet &set) {
  std::string bits;
  for (auto &[name, weight] : set.weights()) {
    bits.append(static_cast<const char *>(weight.values), weight.bytes);
    if (weight.scale)
      bits.append(reinterpret_cast<const char *>(weight.scale), rows * sizeof(float));
  }
  return bits;
}

// Of weights that were never changed before.
inline std::string freshBits(const Network &network, const std::vector<LowRankChange> &changes,
                      BasePlace base = BasePlace::device) {
  LazyDevice device(plenty);
  WeightSet set(device.table(), network.sources(), base, {1, 5000});
  set.merge(changes);
  return bitsOf(set);
}

// What body throws; empty where it does not.
inline std::string messageOf(const std::function<void()> &body) {
  try {
    body();
  } catch (const std::exception &error) {
    return error.what();
  }
  return "";
}

}  // namespace fluxd
