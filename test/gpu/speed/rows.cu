#include "speed.h"

namespace speed {

void measureRowKernels() {
  begin("row_kernels");
  const auto x = randomBf16(kTokens * (kHidden + kMlp)), y = allocate<bf16>(kTokens * kHidden);
  const auto scale = randomFloats(kHidden, 0.3f, 1), shift = randomFloats(kHidden);
  const auto y8 = allocate<e4m3>(kTokens * (kHidden + kMlp));
  const auto yScale = allocate<float>(kTokens);
  const double values = static_cast<double>(kTokens) * kHidden;

  fluxd_modulated_norm norm = {kTokens, kHidden, FLUXD_BF16, FLUXD_BF16, 1e-6f, x.get(),
                               scale.get(), shift.get(), y.get(), nullptr};
  entry("modulated_norm bf16", medianMs([&] { modulatedNorm(norm, stream); }), 0, 4 * values);
  norm.y_dtype = FLUXD_E4M3, norm.y = y8.get(), norm.y_scale = yScale.get();
  entry("modulated_norm e4m3", medianMs([&] { modulatedNorm(norm, stream); }), 0, 3 * values);
  for (int64_t width : {kHidden, kMlp, kHidden + kMlp}) {
    const fluxd_quantize_rows op = {kTokens,  width,        FLUXD_BF16, x.get(),
                                    y8.get(), yScale.get(), nullptr,    0};
    entry("quantize_rows " + std::to_string(width), medianMs([&] { quantizeRows(op, stream); }), 0,
          3.0 * kTokens * width);
  }
  const fluxd_quantize_rows pair = {kTokens,      kHidden, FLUXD_BF16, y.get(), y8.get(),
                                    yScale.get(), x.get(), kMlp};
  entry("quantize_rows 3072 next to 12288", medianMs([&] { quantizeRows(pair, stream); }), 0,
        3.0 * kTokens * (kHidden + kMlp));

  const auto qkv = randomBf16(kTokens * 3 * kHidden), heads = randomBf16(kHeadDim, 0.3f, 1);
  const auto angles = randomFloats(kTokens * kHeadDim / 2);
  const auto q = allocate<bf16>(3 * kTokens * kHidden);
  bf16 *k = q.get() + kTokens * kHidden, *v = k + kTokens * kHidden;
  const fluxd_qk_norm_rope rope = {kTokens, kHeads, kHeadDim, FLUXD_BF16, 1e-6f, qkv.get(),
                                   heads.get(), heads.get(), angles.get(), angles.get(), q.get(),
                                   k, v};
  entry("qk_norm_rope", medianMs([&] { qkNormRope(rope, stream); }), 0, 12 * values);
  end();
}

// The widest images of the decoder at 1024×1024, and its latents. Two reads and a write.
void measureGroupNorm() {
  begin("group_norm");
  const int64_t sizes[][2] = {
      {128, 1024 * 1024}, {256, 1024 * 1024}, {512, 512 * 512}, {512, 128 * 128}};
  constexpr int64_t values = 256 * 1024 * 1024;
  const auto x = randomFloats(values), y = allocate<float>(values);
  const auto scale = randomFloats(512, 0.3f, 1), shift = randomFloats(512);
  for (const auto &[channels, plane] : sizes) {
    for (const bool half : {false, true}) {
      // As float16 the bits are other numbers, of which some are not finite: time does not care.
      const fluxd_group_norm op = {channels, 32, plane, half ? FLUXD_F16 : FLUXD_F32, 1, 1e-6f,
                                   x.get(), scale.get(), shift.get(), y.get()};
      entry("group_norm silu " + std::to_string(channels) + "×" + std::to_string(plane) +
                (half ? " float16" : " float32"),
            medianMs([&] { groupNorm(op, stream); }), 0,
            3.0 * (half ? 2 : 4) * static_cast<double>(channels * plane));
    }
  }
  end();
}

}  // namespace speed
