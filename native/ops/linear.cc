// fluxd.Linear(x, weight, bias?, gate?, residual?, left?) → y; attribute epilogue.
// fluxd.Fp8Linear(x, xScale, weight, weightScale, bias, gate?, residual?) → y; attribute epilogue.
#include "custom_op.h"

namespace fluxd {

using enum OperandType;

static void computeLinear(const Call &call) {
  const auto x = call.dims(0, 2, "x"), weight = call.dims(1, 2, "weight");
  const int64_t rows = x[0], in = x[1], out = weight[0];
  const int64_t leftWidth = call.input(5) ? call.dims(5, 2, "left")[1] : 0;
  call.expectDims(1, {out, in}, "weight");
  call.expectDims(2, {out}, "bias");
  call.expectDims(3, {out}, "gate");
  call.expectDims(4, {rows, out}, "residual");
  call.expectDims(5, {rows, leftWidth}, "left");
  call.run(call.kernels.linear, {.rows = rows,
                                 .in = in,
                                 .out = out,
                                 .dtype = call.dtype,
                                 .epilogue = fluxd_epilogue(call.attributes.epilogue),
                                 .x = call.input(0),
                                 .weight = call.input(1),
                                 .bias = call.input(2),
                                 .gate = call.floats(3),
                                 .residual = call.input(4),
                                 .y = call.output(0, {rows, leftWidth + out}),
                                 .left = call.input(5),
                                 .left_width = leftWidth});
}

static void computeFp8Linear(const Call &call) {
  const auto x = call.dims(0, 2, "x"), weight = call.dims(2, 2, "weight");
  const int64_t rows = x[0], in = x[1], out = weight[0];
  call.expectDims(1, {rows}, "the scale of x");
  call.expectDims(2, {out, in}, "weight");
  call.expectDims(3, {out}, "the scale of weight");
  call.expectDims(4, {out}, "bias");
  call.expectDims(5, {out}, "gate");
  call.expectDims(6, {rows, out}, "residual");
  call.run(call.kernels.fp8_linear, {.rows = rows,
                                     .in = in,
                                     .out = out,
                                     .dtype = call.dtype,
                                     .epilogue = fluxd_epilogue(call.attributes.epilogue),
                                     .x = call.input(0),
                                     .x_scale = call.floats(1),
                                     .weight = call.input(2),
                                     .weight_scale = call.floats(3),
                                     .bias = call.input(4),
                                     .gate = call.floats(5),
                                     .residual = call.input(6),
                                     .y = call.output(0, {rows, out})});
}

const OpDefinition linearOp = {
    .name = "Linear",
    .inputs = {{activation}, {activation}, {activation, true}, {floats, true}, {activation, true},
               {activation, true}},
    .outputs = {{activation}},
    .compute = computeLinear,
};

const OpDefinition fp8LinearOp = {
    .name = "Fp8Linear",
    .inputs = {{e4m3}, {floats}, {e4m3}, {floats}, {activation}, {floats, true},
               {activation, true}},
    .outputs = {{activation}},
    .compute = computeFp8Linear,
};

}  // namespace fluxd
