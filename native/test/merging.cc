// Switching sets of low-rank changes, over a device that does its work as late as it may.
#include <cstring>
#include <thread>

#include "check.h"
#include "lazy_device.h"
#include "operands.h"
#include "weights/weight_set.h"

using namespace fluxd;

namespace {

constexpr size_t plenty = size_t{1} << 30;
constexpr int64_t rows = 48, width = 40;
// Factors of a few hundred bytes need several pieces.
constexpr UploadOptions options = {2, 2000};

std::string messageOf(const std::function<void()> &body) {
  try {
    body();
  } catch (const std::exception &error) {
    return error.what();
  }
  return "";
}

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
Changes randomChanges(std::mt19937 &random, const Network &network) {
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

std::string bitsOf(const WeightSet &set) {
  std::string bits;
  for (auto &[name, weight] : set.weights()) {
    bits.append(static_cast<const char *>(weight.values), weight.bytes);
    if (weight.scale)
      bits.append(reinterpret_cast<const char *>(weight.scale), rows * sizeof(float));
  }
  return bits;
}

// Of weights that were never changed before.
std::string freshBits(const Network &network, const std::vector<LowRankChange> &changes,
                      BasePlace base = BasePlace::device) {
  LazyDevice device(plenty);
  WeightSet set(device.table(), network.sources(), base, {1, 5000});
  set.merge(changes);
  return bitsOf(set);
}

}  // namespace

TEST("1,000 random switches leave the bits of a fresh merge, whichever way they are made") {
  Network network;
  std::mt19937 random(12);
  for (auto base : {BasePlace::device, BasePlace::files}) {
    LazyDevice device(plenty);
    {
      WeightSet set(device.table(), network.sources(), base, options);
      Changes current, other;
      for (int i = 0; i < (base == BasePlace::device ? 1000 : 50); i++) {
        switch (random() % 6) {
          case 0:
            current = randomChanges(random, network);
            set.merge(current.list);
            break;
          case 1:
            other = randomChanges(random, network);
            set.stage(other.list);
            [[fallthrough]];
          case 2:
            set.swap();
            std::swap(current, other);
            break;
          case 3:
            current.rescale(random);
            set.rescale(current.scales);
            break;
          case 4:
            set.dropBase();
            break;
          case 5:
            set.keepBase();
        }
        CHECK(bitsOf(set) == freshBits(network, current.scaled().list, base));
      }
    }
    CHECK(device.live() == 0 && device.used() == 0);
  }
}

TEST("a base that is dropped gives its memory back, and one that does not fit changes nothing") {
  Network network;
  std::mt19937 random(22);
  const Changes changes = randomChanges(random, network);
  LazyDevice device(plenty);
  WeightSet set(device.table(), network.sources(), BasePlace::files, options);
  const size_t small = set.bytes();
  const size_t used = device.used();
  set.keepBase();
  const size_t large = set.bytes();
  CHECK(large > small && device.used() == used + large - small);
  set.merge(changes.list);
  set.dropBase();
  CHECK(set.bytes() == small);
  CHECK(bitsOf(set) == freshBits(network, changes.list));
  device.failUploadAfter(2);
  CHECK(messageOf([&] { set.keepBase(); }) == "the bus is broken");
  CHECK(set.bytes() == small && bitsOf(set) == freshBits(network, changes.list));
  set.keepBase();
  set.merge({});
  CHECK(bitsOf(set) == freshBits(network, {}));
}

TEST("a switch waits once and, after a set as large, allocates nothing") {
  Network network;
  network.names.pop_back();
  std::mt19937 random(13);
  Changes large, small;
  for (auto &name : {"a", "b", "quantised"}) large.add(random, name, 0, rows, 8);
  small.add(random, "b", 7, 20, 5);
  LazyDevice device(plenty);
  auto sources = network.sources();
  sources.pop_back();
  WeightSet set(device.table(), sources, BasePlace::device, options);
  set.merge(large.list);
  set.stage(large.list);
  const int before = device.allocations();
  const auto waits = [&](const std::function<void()> &body) {
    const int count = device.synchronizations();
    body();
    return device.synchronizations() - count;
  };
  CHECK(waits([&] { set.merge(small.list); }) == 1);
  CHECK(waits([&] { set.rescale({std::vector<float>(5, 0.5f)}); }) == 1);
  CHECK(waits([&] { set.stage(large.list); }) == 0);
  CHECK(waits([&] { set.swap(); }) == 1);
  CHECK(waits([&] { set.merge({}); }) == 1);
  CHECK(device.allocations() == before);
}

TEST("what only the old set wrote is restored in the same pass, and nothing else") {
  Network network;
  std::mt19937 random(14);
  Changes first, second;
  first.add(random, "a", 10, 20, 2);
  first.add(random, "b", 0, rows, 2);
  second.add(random, "a", 15, 5, 2);
  LazyDevice device(plenty);
  WeightSet set(device.table(), network.sources(), BasePlace::device, options);
  const auto mergedRows = [&](const std::vector<LowRankChange> &changes) {
    const int64_t before = device.mergedRows();
    set.merge(changes);
    return device.mergedRows() - before;
  };
  CHECK(mergedRows(first.list) == 20 + rows);
  // The change, the rests of a above and below it, and b.
  CHECK(mergedRows(second.list) == 5 + (5 + 10) + rows);
  CHECK(bitsOf(set) == freshBits(network, second.list));
  CHECK(mergedRows({}) == 5);
  CHECK(mergedRows({}) == 0);
  CHECK(bitsOf(set) == freshBits(network, {}));
}

TEST("staging changes no weight, and one that fails leaves the set in use") {
  Network network;
  std::mt19937 random(15);
  Changes first = randomChanges(random, network), second = randomChanges(random, network);
  LazyDevice device(plenty);
  WeightSet set(device.table(), network.sources(), BasePlace::device, options);
  set.merge(first.list);
  const auto merged = bitsOf(set);
  device.failUploadAfter(2);
  CHECK(messageOf([&] { set.stage(second.list); }) == "the bus is broken");
  CHECK(messageOf([&] { set.swap(); }).starts_with("expected changes on the device but"));
  CHECK(bitsOf(set) == merged);
  set.stage(second.list);
  CHECK(bitsOf(set) == merged);
  set.rescale(first.scales);
  CHECK(bitsOf(set) == merged);
  set.swap();
  CHECK(bitsOf(set) == freshBits(network, second.list));
  set.swap();
  CHECK(bitsOf(set) == merged);
}

TEST("an upload that fails changes no weight; the next merge is right") {
  Network network;
  std::mt19937 random(16);
  Changes first = randomChanges(random, network), second = randomChanges(random, network);
  LazyDevice device(plenty);
  WeightSet set(device.table(), network.sources(), BasePlace::device, options);
  set.merge(first.list);
  const auto merged = bitsOf(set);
  device.failUploadAfter(2);
  CHECK(messageOf([&] { set.merge(second.list); }) == "the bus is broken");
  CHECK(bitsOf(set) == merged);
  CHECK(messageOf([&] { set.rescale(second.scales); }).starts_with("expected changes on the"));
  set.merge(second.list);
  CHECK(bitsOf(set) == freshBits(network, second.list));
}

TEST("a merge that fails in the middle leaves the base, and the next is right on any stream") {
  Network network;
  std::mt19937 random(17);
  for (int failing = 1; failing < 6; failing++) {
    Changes first, second, third;
    for (auto &name : network.names) first.add(random, name, 3, 30, 2);
    for (auto &name : network.names) second.add(random, name, 20, 28, 3);
    third.add(random, "a", 25, 4, 2);
    LazyDevice device(plenty);
    WeightSet set(device.table(), network.sources(), BasePlace::device, options);
    set.merge(first.list);
    set.stage(third.list);
    device.failMergeAfter(failing);
    CHECK(messageOf([&] { set.merge(second.list); }) == "the GPU is broken");
    set.swap();
    CHECK(bitsOf(set) == freshBits(network, third.list));
    // Nothing of the failed one comes late: several pieces wait for all that the stream still had.
    set.stage(second.list);
    CHECK(bitsOf(set) == freshBits(network, third.list));
    set.merge({});
    CHECK(bitsOf(set) == freshBits(network, {}));
  }
}

TEST("factors that do not fit are refused, and smaller ones are merged after them") {
  Network network;
  std::mt19937 random(18);
  Changes large, small;
  large.add(random, "a", 0, rows, 400);
  small.add(random, "a", 0, rows, 2);
  size_t used;
  {
    LazyDevice device(plenty);
    WeightSet set(device.table(), network.sources(), BasePlace::device, options);
    used = device.mostUsed();
  }
  LazyDevice device(used + 4096);
  WeightSet set(device.table(), network.sources(), BasePlace::device, options);
  set.merge(small.list);
  const auto merged = bitsOf(set);
  CHECK(messageOf([&] { set.merge(large.list); }).find("bytes of device memory but") < 100);
  CHECK(bitsOf(set) == merged);
  set.merge(small.list);
  CHECK(bitsOf(set) == merged);
}

TEST("scales that do not fit the changes in use are refused") {
  Network network;
  std::mt19937 random(19);
  Changes changes;
  changes.add(random, "a", 0, rows, 2);
  LazyDevice device(plenty);
  WeightSet set(device.table(), network.sources(), BasePlace::device, options);
  set.merge(changes.list);
  CHECK(messageOf([&] { set.rescale({}); }) == "expected scales of 1 changes but got 0");
  CHECK(messageOf([&] { set.rescale({{1, 2, 3}}); }) == "a: expected 2 scales but got 3");
  set.rescale(changes.scales);
  CHECK(bitsOf(set) == freshBits(network, changes.list));
}

TEST("one thread may stage while another merges") {
  Network network;
  std::mt19937 random(20);
  Changes current = randomChanges(random, network), next = randomChanges(random, network);
  LazyDevice device(plenty);
  WeightSet set(device.table(), network.sources(), BasePlace::device, options);
  set.merge(current.list);
  for (int i = 0; i < 20; i++) {
    std::jthread staging([&] { set.stage(next.list); });
    set.rescale(current.scales);
    CHECK(bitsOf(set) == freshBits(network, current.list));
    staging.join();
    set.swap();
    CHECK(bitsOf(set) == freshBits(network, next.list));
    std::swap(current, next);
  }
}

TEST("factors of several megabytes are the same by one thread and by several") {
  constexpr int64_t height = 1500, breadth = 1100, rank = 160;
  std::mt19937 random(21);
  const std::vector<Bf16> values(height * breadth, fromFloat<Bf16>(0.5f));
  const auto up = randomOperand<float>(random, height * rank).stored;
  const auto down = randomOperand<float>(random, rank * breadth).stored;
  const WeightPart part = {"", 0, values.data(), height, StoredDtype::bf16, 1};
  std::string bits[2];
  for (int several : {0, 1}) {
    LazyDevice device(plenty);
    const UploadOptions limits = {several ? 3 : 1, size_t{1} << (several ? 20 : 24)};
    WeightSet set(device.table(), {{"w", {height, breadth}, FLUXD_BF16, {part}}},
                  BasePlace::device, limits);
    set.merge({{"w", 0, height, rank, up.data(), down.data()}});
    auto &weight = set.at("w");
    bits[several].assign(static_cast<const char *>(weight.values), weight.bytes);
  }
  CHECK(bits[0] == bits[1]);
}
