// What a switch from one LoRA to another takes with everything that belongs to it: the upload of
// the factors through pinned memory, the merges, and the wait for them. Over weights that have
// their base on the device (fluxd::WeightSet), at rank 16, for every linear weight of the
// transformer.
//
// By the host's clock, because half of a switch is the host's work, from the call to the moment at
// which the device is idle. Each is the median of `kRounds`, between two LoRAs.
#include "speed.h"
#include "weights/weight_set.h"

#include <algorithm>
#include <chrono>
#include <vector>

namespace speed {

namespace {

using fluxd::LowRankChange;
using fluxd::WeightSet;

constexpr int kRounds = 9;

/** Values that all weights, or all factors, are made of: their sizes matter, not what they are. */
struct Values {
  std::vector<uint16_t> weight;
  std::vector<float> factor;

  explicit Values(const std::vector<WeightSize> &sizes) {
    int64_t weights = 0, factors = 0;
    for (const auto &s : sizes) {
      weights = std::max(weights, s.out * s.in);
      factors = std::max(factors, kRank * std::max(s.out, s.in));
    }
    // 0x3c00 is 2⁻⁷ in bf16.
    weight.assign(static_cast<size_t>(weights), 0x3c00);
    factor.assign(static_cast<size_t>(factors), 0x1p-7f);
  }
};

std::string nameOf(size_t index) { return "w" + std::to_string(index); }

std::vector<fluxd::WeightSource> sourcesOf(const std::vector<WeightSize> &sizes,
                                           const Values &values, bool fp8) {
  std::vector<fluxd::WeightSource> sources;
  for (const auto &s : sizes) {
    const fluxd::WeightPart part = {
        "", 0, values.weight.data(), s.out, fluxd::StoredDtype::bf16, 1};
    sources.push_back({nameOf(sources.size()),
                       {s.out, s.in},
                       fp8 && s.quantized ? FLUXD_E4M3 : FLUXD_BF16,
                       {part}});
  }
  return sources;
}

/** One change of each weight; of q, k and v, which are one weight, three. */
std::vector<LowRankChange> changesOf(const std::vector<WeightSize> &sizes, const Values &values) {
  std::vector<LowRankChange> changes;
  for (size_t i = 0; i < sizes.size(); i++) {
    const int64_t parts = sizes[i].out == 3 * kHidden ? 3 : 1, rows = sizes[i].out / parts;
    for (int64_t part = 0; part < parts; part++) {
      changes.push_back(
          {nameOf(i), part * rows, rows, kRank, values.factor.data(), values.factor.data()});
    }
  }
  return changes;
}

double medianOf(std::vector<double> times) {
  std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
  return times[times.size() / 2];
}

/** Until the device is idle; `before` makes each round begin alike and is not counted. */
double medianSwitchMs(const std::function<void()> &before, const std::function<void()> &act) {
  std::vector<double> times;
  for (int i = 0; i < kRounds; i++) {
    before();
    FLUXD_CHECK(cudaDeviceSynchronize());
    const auto begun = std::chrono::steady_clock::now();
    act();
    FLUXD_CHECK(cudaDeviceSynchronize());
    const std::chrono::duration<double, std::milli> passed =
        std::chrono::steady_clock::now() - begun;
    times.push_back(passed.count());
  }
  return medianOf(times);
}

void line(const std::string &name, double ms) {
  std::fprintf(report, "%s    { \"name\": \"%s\", \"ms\": %.3f }", separator, name.c_str(), ms);
  std::printf("%-44s %9.3f ms\n", name.c_str(), ms);
  separator = ",\n";
}

}  // namespace

void measureSwitches(const fluxd_device &device) {
  begin("switches");
  const auto sizes = fluxWeights();
  const Values values(sizes);
  const auto changes = changesOf(sizes, values);
  const std::vector<std::vector<float>> scales(changes.size(), std::vector<float>(kRank, 0.5f));
  for (bool fp8 : {false, true}) {
    const std::string dtype = fp8 ? ", e4m3" : ", bf16";
    WeightSet set(device, sourcesOf(sizes, values, fp8), fluxd::BasePlace::device, {4});
    const auto merge = [&] { set.merge(changes); };
    const auto stage = [&] { set.stage(changes); };
    const auto swap = [&] { set.swap(); };
    const auto nothing = [] {};
    // Allocates for both sets of factors.
    merge();
    stage();
    line("upload and merge" + dtype, medianSwitchMs(nothing, merge));
    line("stage: upload next to the set in use" + dtype, medianSwitchMs(nothing, stage));
    line("swap: merge what was staged" + dtype, medianSwitchMs(nothing, swap));
    line("another scale" + dtype, medianSwitchMs(nothing, [&] { set.rescale(scales); }));
    line("back to the base" + dtype, medianSwitchMs(merge, [&] { set.merge({}); }));
  }
  end();
}

}  // namespace speed
