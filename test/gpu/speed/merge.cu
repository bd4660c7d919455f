#include "speed.h"

#include <algorithm>
#include <vector>

namespace speed {

std::vector<WeightSize> fluxWeights() {
  std::vector<WeightSize> sizes;
  for (int64_t i = 0; i < 2 * kDouble; i++) {
    sizes.insert(sizes.end(), {{6 * kHidden, kHidden, false}, {3 * kHidden, kHidden, true},
                               {kHidden, kHidden, true}, {kMlp, kHidden, true},
                               {kHidden, kMlp, true}});
  }
  for (int64_t i = 0; i < kSingle; i++) {
    sizes.insert(sizes.end(), {{3 * kHidden, kHidden, false}, {3 * kHidden, kHidden, true},
                               {kMlp, kHidden, true}, {kHidden, kHidden + kMlp, true}});
  }
  return sizes;
}

void measureMerge() {
  begin("merge");
  const auto sizes = fluxWeights();
  int64_t values = 0, largest = 0;
  for (const auto &s : sizes) {
    values += s.out * s.in;
    largest = std::max(largest, std::max(s.out, s.in) * kRank);
  }
  const auto base = randomBf16(values, 0.02f), merged = allocate<bf16>(values);
  const auto up = randomFloats(largest, 0.01f), down = randomFloats(largest);
  const auto scale = allocate<float>(3 * kHidden + kMlp);
  for (bool fp8 : {false, true}) {
    const double ms = medianMs([&] {
      int64_t at = 0;
      for (const auto &s : sizes) {
        const bool quantized = fp8 && s.quantized;
        merge({s.out, s.in, kRank, FLUXD_BF16, quantized ? FLUXD_E4M3 : FLUXD_BF16,
               base.get() + at, up.get(), down.get(), merged.get() + at,
               quantized ? scale.get() : nullptr, nullptr},
              stream);
        at += s.out * s.in;
      }
    }, 5);
    double bytes = 0;
    for (const auto &s : sizes) {
      bytes += static_cast<double>(s.out * s.in) * (fp8 && s.quantized ? 5 : 4);
    }
    entry(std::string("all weights, rank 16, ") + (fp8 ? "e4m3" : "bf16"), ms, 0, bytes);
  }
  end();
}

}  // namespace speed
