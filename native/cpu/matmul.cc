#include "matmul.h"

namespace fluxd {

// One float per lane; the compiler cuts it into the registers that the machine has.
constexpr int lanes = 16;
typedef float Lanes __attribute__((vector_size(lanes * sizeof(float))));

// Eight sums stay in registers while the depth is walked once.
template <int rows>
[[gnu::always_inline]] static inline void addRows(const float *x, const float *w, int depth,
                                                  float *sums) {
  for (int out = 0; out < tileOuts; out += 2 * lanes) {
    Lanes left[rows] = {}, right[rows] = {};
    for (int i = 0; i < depth; i++) {
      const auto *columns = reinterpret_cast<const Lanes *>(w + i * tileOuts + out);
      for (int r = 0; r < rows; r++) {
        left[r] += x[r * depth + i] * columns[0];
        right[r] += x[r * depth + i] * columns[1];
      }
    }
    for (int r = 0; r < rows; r++) {
      auto *place = reinterpret_cast<Lanes *>(sums + r * tileOuts + out);
      place[0] += left[r];
      place[1] += right[r];
    }
  }
}

// The loader picks the version for the machine it runs on, and does so before a thread sanitizer
// could have started.
#ifndef __SANITIZE_THREAD__
[[gnu::target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")]]
#endif
static void addTileVersions(const float *x, const float *w, int rows, int depth, float *sums) {
  int r = 0;
  for (; r + 4 <= rows; r += 4) addRows<4>(x + r * depth, w, depth, sums + r * tileOuts);
  for (; r < rows; r++) addRows<1>(x + r * depth, w, depth, sums + r * tileOuts);
}

void addTile(const float *x, const float *w, int rows, int depth, TileSums &sums) {
  addTileVersions(x, w, rows, depth, &sums[0][0]);
}

}  // namespace fluxd
