// The CPU twin of Merge.
#include <vector>

#include "kernel.h"

namespace fluxd {

// base + (up ⊙ rank_scale)·down of one row.
template <typename T>
static void mergeRow(const fluxd_merge &op, int64_t o, float *row) {
  auto base = static_cast<const T *>(op.base) + o * op.in;
  for (int64_t i = 0; i < op.in; i++) row[i] = toFloat(base[i]);
  for (int64_t k = 0; k < op.rank; k++) {
    const float up = op.up[o * op.rank + k] * (op.rank_scale ? op.rank_scale[k] : 1);
    const float *down = op.down + k * op.in;
    for (int64_t i = 0; i < op.in; i++) row[i] += up * down[i];
  }
}

int mergeCpu(const fluxd_merge *op, fluxd_queue queue) {
  return guarded("merge", [&] {
    expect(op->out > 0 && op->in > 0 && op->rank >= 0, "out, in and rank to be lengths");
    const bool quantize = op->merged_dtype == FLUXD_E4M3;
    expect(quantize || op->merged_dtype == op->dtype, "merged_dtype to be dtype or E4M3");
    expect(!quantize || op->merged_scale, "merged_scale for an e4m3 result");
    withActivation(op->dtype, [&](auto zero) {
      using T = decltype(zero);
      parallelRows(queue, op->out, [&](int64_t begin, int64_t end) {
        std::vector<float> row(op->in);
        for (int64_t o = begin; o < end; o++) {
          mergeRow<T>(*op, o, row.data());
          if (quantize)
            op->merged_scale[o] =
                quantizeRow(row.data(), op->in, static_cast<E4m3 *>(op->merged) + o * op->in);
          else
            for (int64_t i = 0; i < op->in; i++)
              static_cast<T *>(op->merged)[o * op->in + i] = fromFloat<T>(row[i]);
        }
      });
    });
  });
}

}  // namespace fluxd
