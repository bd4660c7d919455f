#include "speed.h"
#include "status.h"

#include <vector>

namespace speed {

bool graphRepeatsBits() {
  const LayerSize l = {"", kTxt, kHidden, kHidden, FLUXD_EPILOGUE_GATED};
  const LayerOperands o(l);
  const auto scale = randomFloats(kHidden, 0.3f, 1);
  const auto normed = allocate<bf16>(l.rows * l.in);
  const auto enqueue = [&] {
    modulatedNorm({l.rows, l.in, FLUXD_BF16, FLUXD_BF16, 1e-6f, o.x.get(), scale.get(),
                   o.gate.get(), normed.get(), nullptr},
                  stream);
    linear({l.rows, l.in, l.out, FLUXD_BF16, l.epilogue, normed.get(), o.weight.get(),
            o.bias.get(), o.gate.get(), o.residual.get(), o.y.get(), nullptr, 0},
           stream);
  };
  const auto bits = [&] {
    std::vector<uint16_t> host(static_cast<size_t>(l.rows * l.out));
    FLUXD_CHECK(cudaMemcpyAsync(host.data(), o.y.get(), host.size() * 2, cudaMemcpyDeviceToHost,
                                stream));
    FLUXD_CHECK(cudaStreamSynchronize(stream));
    return host;
  };
  enqueue();
  const auto eager = bits();
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  FLUXD_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  enqueue();
  FLUXD_CHECK(cudaStreamEndCapture(stream, &graph));
  FLUXD_CHECK(cudaGraphInstantiate(&executable, graph, 0));
  FLUXD_CHECK(cudaMemsetAsync(o.y.get(), 0xff, eager.size() * 2, stream));
  FLUXD_CHECK(cudaGraphLaunch(executable, stream));
  const bool same = bits() == eager;
  FLUXD_CHECK(cudaGraphExecDestroy(executable));
  FLUXD_CHECK(cudaGraphDestroy(graph));
  return same;
}

}  // namespace speed
