// fluxd.GroupNorm(x [1, channels, height, width], scale, shift) → y; attributes groups, silu,
// epsilon.
#include "custom_op.h"

namespace fluxd {

using enum OperandType;

static void computeGroupNorm(const Call &call) {
  const auto x = call.dims(0, 4, "x");
  const int64_t channels = x[1];
  if (x[0] != 1)
    throw std::invalid_argument("expected one image but x has " + std::to_string(x[0]));
  call.expectDims(1, {channels}, "scale");
  call.expectDims(2, {channels}, "shift");
  call.run(call.kernels.group_norm, {.channels = channels,
                                     .groups = call.attributes.groups,
                                     .plane = x[2] * x[3],
                                     .dtype = call.dtype,
                                     .silu = call.attributes.silu != 0,
                                     .epsilon = call.attributes.epsilon,
                                     .x = call.input(0),
                                     .scale = call.floats(1),
                                     .shift = call.floats(2),
                                     .y = call.output(0, x)});
}

const OpDefinition groupNormOp = {
    .name = "GroupNorm",
    .inputs = {{activation}, {floats}, {floats}},
    .outputs = {{activation}},
    .compute = computeGroupNorm,
    .dtypes = {FLUXD_F32, FLUXD_F16},
};

}  // namespace fluxd
