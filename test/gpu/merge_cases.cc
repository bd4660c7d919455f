// Merging: single merges, and many switches of a set.
#include "cases.h"

namespace gpu {

namespace {

struct MergeCase {
  int64_t out, in, rank;
  bool quantized, inPlace, scaled;
};

template <typename T>
double compareMerge(const MergeCase &c) {
  Device on(*cuda);
  Tensor<T> base(on, randomValues<T>(randomness, c.out * c.in));
  Tensor<float> up(on, randomValues<float>(randomness, c.out * c.rank));
  Tensor<float> down(on, randomValues<float>(randomness, c.rank * c.in, 0.2f));
  Tensor<T> merged(on, c.out * c.in);
  Tensor<E4m3> merged8(on, c.out * c.in);
  Tensor<float> scale(on, c.out), rankScale(on, randomValues<float>(randomness, c.rank));
  fluxd_merge op = {c.out, c.in, c.rank, dtypeOf<T>, c.quantized ? FLUXD_E4M3 : dtypeOf<T>,
                    base.host.data(), up.host.data(), down.host.data(),
                    c.quantized ? static_cast<void *>(merged8.host.data()) : merged.host.data(),
                    scale.host.data(), c.scaled ? rankScale.host.data() : nullptr};
  checkTwin(twins().merge(&op, pool()));
  auto &target = c.inPlace ? base : merged;
  op.base = base.on(), op.up = up.on(), op.down = down.on(), op.merged_scale = scale.on();
  op.rank_scale = c.scaled ? rankScale.on() : nullptr;
  op.merged = c.quantized ? static_cast<void *>(merged8.on()) : target.on();
  check(cuda->kernels->merge(&op, on.stream), *cuda);
  if (!c.quantized) return relativeError(floats(target.result()), floats(merged.host));
  return relativeError(dequantized(merged8.result(), scale.result()),
                       dequantized(merged8.host, scale.host));
}

// `up` [rows, rank], of the first values of `columns`, with each column times its scale.
std::vector<float> scaledColumns(std::vector<float> columns, const std::vector<float> &scales,
                                 int64_t rank) {
  for (size_t i = 0; rank > 0 && i < columns.size(); i++) columns[i] *= scales[i % size_t(rank)];
  return columns;
}

// Switching sets at random must leave the very bits of a merge into fresh memory.
double compareSwitches(int switches, bool quantized) {
  constexpr int64_t out = 200, in = 328, largestRank = 40;
  Device on(*cuda);
  Tensor<Bf16> base(on, randomValues<Bf16>(randomness, out * in));
  Tensor<float> up(on, randomValues<float>(randomness, out * largestRank));
  Tensor<float> down(on, randomValues<float>(randomness, largestRank * in, 0.2f));
  Tensor<float> scales(on, randomValues<float>(randomness, largestRank));
  Tensor<Bf16> working(on, out * in), fresh(on, out * in);
  Tensor<float> workingScale(on, out), freshScale(on, out);
  fluxd_merge op = {out, in, 0, FLUXD_BF16, quantized ? FLUXD_E4M3 : FLUXD_BF16, base.on(),
                    up.on(), down.on(), working.on(), workingScale.on(), scales.on()};
  for (int i = 0; i < switches; i++) {
    op.rank = int64_t(randomness() % (largestRank + 1));
    check(cuda->kernels->merge(&op, on.stream), *cuda);
  }
  op.merged = fresh.on(), op.merged_scale = freshScale.on();
  // A switch that only scales leaves the bits of factors that were scaled before.
  Tensor<float> scaled(on, scaledColumns(up.host, scales.host, op.rank));
  op.up = scaled.on(), op.rank_scale = nullptr;
  check(cuda->kernels->merge(&op, on.stream), *cuda);
  const size_t bytes = size_t(out * in) * (quantized ? 1 : 2);
  const auto a = working.result(), b = fresh.result();
  const auto values = quantized ? freshScale.result() : floats(b);
  expect(std::isfinite(relativeError(values, values)), "every value to be written");
  return std::memcmp(a.data(), b.data(), bytes) == 0 &&
                 (!quantized || sameBits(workingScale.result(), freshScale.result()))
             ? 0
             : 1;
}

}  // namespace

void checkMerges(bool full) {
  const MergeCase merges[] = {
      {64, 128, 16, false, false, true}, {65, 129, 1, false, false, false},
      {100, 331, 17, false, true, true}, {1, 8, 0, false, false, false},
      {130, 264, 128, false, false, false}, {7, 3, 5, false, false, true}};
  for (const auto &c : merges) {
    const MergeCase quantized = {c.out, c.in, c.rank, true, false, c.scaled};
    std::string variant = c.scaled ? " scaled" : "";
    if (c.inPlace) variant += " in place";
    const auto name = [&](const char *dtypes) {
      return named("merge", {c.out, c.in, c.rank}, dtypes + variant);
    };
    measure(name("bf16"), kBf16, [&] { return compareMerge<Bf16>(c); });
    measure(name("float32"), 1e-6, [&] { return compareMerge<float>(c); });
    measure(name("bf16 to e4m3"), kFp8, [&] { return compareMerge<Bf16>(quantized); });
    measure(name("float32 to e4m3"), kFp8, [&] { return compareMerge<float>(quantized); });
  }
  const int switches = full ? 1000 : 5;
  for (bool quantized : {false, true}) {
    const std::string what = quantized ? "switches, e4m3 bits" : "switches, bf16 bits";
    measure(named("merge", {switches}, what), 0,
            [&] { return compareSwitches(switches, quantized); });
  }
}

}  // namespace gpu
