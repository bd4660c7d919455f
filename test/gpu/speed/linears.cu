#include "matmul.h"
#include "speed.h"

#include <algorithm>
#include <cmath>

namespace speed {

LayerOperands::LayerOperands(const LayerSize &l)
    : x(randomBf16(l.rows * l.in)),
      weight(randomBf16(l.out * l.in, 1 / std::sqrt(static_cast<float>(l.in)))),
      bias(randomBf16(l.out)),
      residual(randomBf16(l.rows * l.out)),
      y(allocate<bf16>(l.rows * l.out)),
      gate(randomFloats(l.out)),
      xScale(allocate<float>(l.rows)),
      weightScale(allocate<float>(l.out)),
      x8(allocate<e4m3>(l.rows * l.in)),
      weight8(allocate<e4m3>(l.out * l.in)) {
  quantizeRows({l.rows, l.in, FLUXD_BF16, x.get(), x8.get(), xScale.get(), nullptr, 0}, stream);
  quantizeRows({l.out, l.in, FLUXD_BF16, weight.get(), weight8.get(), weightScale.get(),
                nullptr, 0},
               stream);
}

static double flopsOf(const LayerSize &l) { return 2.0 * l.rows * l.in * l.out; }

void measureCeilings() {
  constexpr int64_t n = 8192;
  const auto x = randomBf16(n * n), w = randomBf16(n * n, 0.01f);
  const auto y = allocate<bf16>(n * n);
  const fluxd_linear op = {n, n, n, FLUXD_BF16, FLUXD_EPILOGUE_NONE, x.get(), w.get(),
                           nullptr, nullptr, nullptr, y.get(), nullptr, 0};
  const double product = medianMs([&] { linear(op, stream); });
  matmulFlopsPerMs = 2.0 * n * n * n / product;
  constexpr int64_t bytes = int64_t{2} << 30;
  const auto from = randomBf16(bytes / 2), to = allocate<bf16>(bytes / 2);
  const double copy = medianMs([&] {
    FLUXD_CHECK(cudaMemcpyAsync(to.get(), from.get(), bytes, cudaMemcpyDeviceToDevice, stream));
  });
  copyBytesPerMs = 2.0 * bytes / copy;
  std::fprintf(report,
               ",\n  \"ceilings\": { \"bf16_matmul_8192_tflops\": %.1f, \"copy_gb_per_s\": %.0f }",
               matmulFlopsPerMs / 1e9, copyBytesPerMs / 1e6);
}

void measureLinears() {
  begin("linears");
  for (const auto &l : kLayers) {
    const LayerOperands o(l);
    const fluxd_linear op = {l.rows, l.in, l.out, FLUXD_BF16, l.epilogue, o.x.get(),
                             o.weight.get(), o.bias.get(), o.gate.get(), o.residual.get(),
                             o.y.get(), nullptr, 0};
    entry(std::string("bf16 ") + l.name, medianMs([&] { linear(op, stream); }), flopsOf(l), 0);
    const fluxd_fp8_linear fp8 = {l.rows, l.in, l.out, FLUXD_BF16, l.epilogue, o.x8.get(),
                                  o.xScale.get(), o.weight8.get(), o.weightScale.get(),
                                  o.bias.get(), o.gate.get(), o.residual.get(), o.y.get()};
    entry(std::string("e4m3 ") + l.name, medianMs([&] { fp8Linear(fp8, stream); }), flopsOf(l), 0);
  }
  // The feed-forward part of a single block, behind columns of attention.
  const LayerSize l = {"", kTokens, kHidden, kMlp, FLUXD_EPILOGUE_GELU};
  const LayerOperands o(l);
  const auto left = randomBf16(kTokens * kHidden);
  const auto joined = allocate<bf16>(kTokens * (kHidden + kMlp));
  const fluxd_linear behind = {l.rows, l.in, l.out, FLUXD_BF16, l.epilogue, o.x.get(),
                               o.weight.get(), o.bias.get(), nullptr, nullptr, joined.get(),
                               left.get(), kHidden};
  entry("bf16 single mlp in, gelu, behind attention", medianMs([&] { linear(behind, stream); }),
        flopsOf(l), 0);
  end();
}

void measureAlgorithms() {
  begin("algorithms");
  for (const auto &l : kLayers) {
    const LayerOperands o(l);
    for (bool fp8 : {false, true}) {
      const MatmulOperands operands = {
          fp8 ? static_cast<const void *>(o.x8.get()) : o.x.get(),
          fp8 ? static_cast<const void *>(o.weight8.get()) : o.weight.get(),
          o.bias.get(), fp8 ? o.xScale.get() : nullptr, fp8 ? o.weightScale.get() : nullptr,
          o.y.get()};
      const MatmulShape shape = {l.rows, l.in, l.out, fp8, fp8, true,
                                 l.epilogue == FLUXD_EPILOGUE_GELU, 256, l.out};
      const auto plan = planOf(shape, operands);
      std::string times;
      double first = 0, best = 0;
      for (int i = 0; i < algorithmCount(*plan); i++) {
        // Some are named and then refused.
        if (!runMatmul(*plan, operands, stream, i)) continue;
        const double ms = medianMs([&] { runMatmul(*plan, operands, stream, i); }, 10);
        if (times.empty()) first = best = ms;
        best = std::min(best, ms);
        times += (times.empty() ? "" : ", ") + std::to_string(ms);
      }
      const bool inOneGo = !times.empty();
      std::fprintf(report,
                   "%s    { \"name\": \"%s %s\", \"in_one_go\": %s, \"first_over_best\": %.3f, "
                   "\"ms\": [%s] }",
                   separator, fp8 ? "e4m3" : "bf16", l.name, inOneGo ? "true" : "false",
                   inOneGo ? first / best : 0, times.c_str());
      std::printf("%s %-24s in one go: %s, first/best %.3f\n", fp8 ? "e4m3" : "bf16", l.name,
                  inOneGo ? "yes" : "no", inOneGo ? first / best : 0);
      separator = ",\n";
    }
  }
  end();
}

}  // namespace speed
