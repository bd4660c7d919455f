// Switching sets of low-rank changes, over a device that does its work as late as it may.
#include <functional>
#include <thread>

#include "check.h"
#include "network.h"

using namespace fluxd;

TEST("1,000 random switches leave the bits of a fresh merge, whichever way they are made") {
  Network network;
  std::mt19937 random(12);
  for (auto base : {BasePlace::device, BasePlace::files}) {
    LazyDevice device(plenty);
    {
      WeightSet set(device.table(), network.sources(), base, smallPieces);
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
  WeightSet set(device.table(), network.sources(), BasePlace::files, smallPieces);
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
  WeightSet set(device.table(), sources, BasePlace::device, smallPieces);
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

TEST("a base that comes from files passes through the same buffers for all weights") {
  Network network;
  std::mt19937 random(23);
  Changes one, three;
  for (auto &name : {"a", "b", "quantised"}) three.add(random, name, 0, rows, 8);
  one.add(random, "a", 0, rows, 8);
  LazyDevice device(plenty);
  WeightSet set(device.table(), network.sources(), BasePlace::files, smallPieces);
  // Allocates for the factors.
  set.merge(three.list);
  set.merge({});
  const auto allocations = [&](const std::vector<LowRankChange> &changes) {
    const int before = device.allocations();
    set.merge(changes);
    return device.allocations() - before;
  };
  const int ofOne = allocations(one.list);
  // Of two more weights, the rows of their base.
  CHECK(allocations(three.list) == ofOne + 2);
  CHECK(bitsOf(set) == freshBits(network, three.list, BasePlace::files));
}

TEST("what only the old set wrote is restored in the same pass, and nothing else") {
  Network network;
  std::mt19937 random(14);
  Changes first, second;
  first.add(random, "a", 10, 20, 2);
  first.add(random, "b", 0, rows, 2);
  second.add(random, "a", 15, 5, 2);
  LazyDevice device(plenty);
  WeightSet set(device.table(), network.sources(), BasePlace::device, smallPieces);
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

TEST("one thread may stage while another merges") {
  Network network;
  std::mt19937 random(20);
  Changes current = randomChanges(random, network), next = randomChanges(random, network);
  LazyDevice device(plenty);
  WeightSet set(device.table(), network.sources(), BasePlace::device, smallPieces);
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
