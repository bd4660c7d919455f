// Products of two row-major matrices along their rows, x·Wᵀ, tile by tile in float32.
#pragma once
#include "kernel.h"

namespace fluxd {

constexpr int tileRows = 48, tileOuts = 96;

// sums[r][o] = Σ_i x[r, i]·w[o, i] of one tile.
using TileSums = float[tileRows][tileOuts];

// Which part of y [rows, out] a tile is.
struct Tile {
  int64_t row, out;
  int rows, outs;
};

// Both operands and the sums start at a multiple of 64 bytes.
// sums += x·wᵀ over `depth` values: x is [tileRows, depth], w is [depth, tileOuts].
void addTile(const float *x, const float *w, int rows, int depth, TileSums &sums);

// The sums of one tile; operands are widened on the way.
template <typename X, typename W>
void multiplyTile(const X *x, const W *w, int64_t in, const Tile &tile, TileSums &sums) {
  constexpr int maxDepth = 256;
  alignas(64) thread_local float xBlock[tileRows * maxDepth], wBlock[maxDepth * tileOuts];
  std::fill_n(&sums[0][0], tileRows * tileOuts, 0.0f);
  for (int64_t begin = 0; begin < in; begin += maxDepth) {
    const int depth = int(std::min<int64_t>(maxDepth, in - begin));
    for (int r = 0; r < tile.rows; r++)
      for (int i = 0; i < depth; i++)
        xBlock[r * depth + i] = toFloat(x[(tile.row + r) * in + begin + i]);
    std::fill_n(wBlock, depth * tileOuts, 0.0f);
    for (int o = 0; o < tile.outs; o++)
      for (int i = 0; i < depth; i++)
        wBlock[i * tileOuts + o] = toFloat(w[(tile.out + o) * in + begin + i]);
    addTile(xBlock, wBlock, tile.rows, depth, sums);
  }
}

// Calls body(tile) for all tiles of y [rows, out] on the pool.
template <typename Body>
void forEachTile(fluxd_queue queue, int64_t rows, int64_t out, const Body &body) {
  const int64_t down = (rows + tileRows - 1) / tileRows, across = (out + tileOuts - 1) / tileOuts;
  parallelFor(queue, down * across, [&](int64_t i) {
    const int64_t row = i / across * tileRows, column = i % across * tileOuts;
    body(Tile{row, column, int(std::min<int64_t>(tileRows, rows - row)),
              int(std::min<int64_t>(tileOuts, out - column))});
  });
}

}  // namespace fluxd
