// What a weight set is like after a switch that failed: as before, as its base, or right with the
// next one.
#include "check.h"
#include "network.h"

using namespace fluxd;

TEST("staging changes no weight, and one that fails leaves the set in use") {
  Network network;
  std::mt19937 random(15);
  Changes first = randomChanges(random, network), second = randomChanges(random, network);
  LazyDevice device(plenty);
  WeightSet set(device.table(), network.sources(), BasePlace::device, smallPieces);
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
  WeightSet set(device.table(), network.sources(), BasePlace::device, smallPieces);
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
    WeightSet set(device.table(), network.sources(), BasePlace::device, smallPieces);
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
    WeightSet set(device.table(), network.sources(), BasePlace::device, smallPieces);
    used = device.mostUsed();
  }
  LazyDevice device(used + 4096);
  WeightSet set(device.table(), network.sources(), BasePlace::device, smallPieces);
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
  WeightSet set(device.table(), network.sources(), BasePlace::device, smallPieces);
  set.merge(changes.list);
  CHECK(messageOf([&] { set.rescale({}); }) == "expected scales of 1 changes but got 0");
  CHECK(messageOf([&] { set.rescale({{1, 2, 3}}); }) == "a: expected 2 scales but got 3");
  set.rescale(changes.scales);
  CHECK(bitsOf(set) == freshBits(network, changes.list));
}
