// Merging: single merges, and many switches of a set.
#include "cases.h"

namespace gpu {

namespace {

struct MergeCase {
  int64_t out, in, rank;
  bool quantized, inPlace;
};

template <typename T>
double compareMerge(const MergeCase &c) {
  Device on(*cuda);
  Tensor<T> base(on, randomValues<T>(randomness, c.out * c.in));
  Tensor<float> up(on, randomValues<float>(randomness, c.out * c.rank));
  Tensor<float> down(on, randomValues<float>(randomness, c.rank * c.in, 0.2f));
  Tensor<T> merged(on, c.out * c.in);
  Tensor<E4m3> merged8(on, c.out * c.in);
  Tensor<float> scale(on, c.out);
  fluxd_merge op = {c.out, c.in, c.rank, dtypeOf<T>, c.quantized ? FLUXD_E4M3 : dtypeOf<T>,
                    base.host.data(), up.host.data(), down.host.data(),
                    c.quantized ? static_cast<void *>(merged8.host.data()) : merged.host.data(),
                    scale.host.data()};
  checkTwin(twins().merge(&op, pool()));
  auto &target = c.inPlace ? base : merged;
  op.base = base.on(), op.up = up.on(), op.down = down.on(), op.merged_scale = scale.on();
  op.merged = c.quantized ? static_cast<void *>(merged8.on()) : target.on();
  check(cuda->kernels->merge(&op, on.stream), *cuda);
  if (!c.quantized) return relativeError(floats(target.result()), floats(merged.host));
  return relativeError(dequantized(merged8.result(), scale.result()),
                       dequantized(merged8.host, scale.host));
}

// Switching sets at random must leave the very bits of a merge into fresh memory.
double compareSwitches(int switches, bool quantized) {
  constexpr int64_t out = 200, in = 328, largestRank = 40;
  Device on(*cuda);
  Tensor<Bf16> base(on, randomValues<Bf16>(randomness, out * in));
  Tensor<float> up(on, randomValues<float>(randomness, out * largestRank));
  Tensor<float> down(on, randomValues<float>(randomness, largestRank * in, 0.2f));
  Tensor<Bf16> working(on, out * in), fresh(on, out * in);
  Tensor<float> workingScale(on, out), freshScale(on, out);
  fluxd_merge op = {out, in, 0, FLUXD_BF16, quantized ? FLUXD_E4M3 : FLUXD_BF16, base.on(),
                    up.on(), down.on(), working.on(), workingScale.on()};
  for (int i = 0; i < switches; i++) {
    op.rank = int64_t(randomness() % (largestRank + 1));
    check(cuda->kernels->merge(&op, on.stream), *cuda);
  }
  op.merged = fresh.on(), op.merged_scale = freshScale.on();
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
  const MergeCase merges[] = {{64, 128, 16, false, false}, {65, 129, 1, false, false},
                              {100, 331, 17, false, true}, {1, 8, 0, false, false},
                              {130, 264, 128, false, false}, {7, 3, 5, false, false}};
  for (const auto &c : merges) {
    const MergeCase quantized = {c.out, c.in, c.rank, true, false};
    const char *place = c.inPlace ? " in place" : "";
    const auto name = [&](const char *dtypes) {
      return named("merge", {c.out, c.in, c.rank}, std::string(dtypes) + place);
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
