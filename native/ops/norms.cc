// fluxd.QuantizeRows(x, right?) → y, scale.
// fluxd.ModulatedNorm(x, scale, shift) → y, and ModulatedNormFp8 → y, yScale; attribute epsilon.
// fluxd.QkNormRope(cos, sin, qkv, qScale, kScale, qkv2?, qScale2?, kScale2?) → q, k, v; attributes
// heads, epsilon. Two projections are two streams with one attention: rows of the first come first.
#include "custom_op.h"

namespace fluxd {

using enum OperandType;

static void computeQuantizeRows(const Call &call) {
  const auto x = call.dims(0, 2, "x");
  const int64_t rightWidth = call.input(1) ? call.dims(1, 2, "right")[1] : 0;
  call.expectDims(1, {x[0], rightWidth}, "right");
  call.run(call.kernels.quantize_rows, {.rows = x[0],
                                        .width = x[1],
                                        .dtype = call.dtype,
                                        .x = call.input(0),
                                        .y = call.output(0, {x[0], x[1] + rightWidth}),
                                        .scale = static_cast<float *>(call.output(1, {x[0]})),
                                        .right = call.input(1),
                                        .right_width = rightWidth});
}

static void computeModulatedNorm(const Call &call, fluxd_dtype yDtype) {
  const auto x = call.dims(0, 2, "x");
  call.expectDims(1, {x[1]}, "scale");
  call.expectDims(2, {x[1]}, "shift");
  void *yScale = yDtype == FLUXD_E4M3 ? call.output(1, {x[0]}) : nullptr;
  call.run(call.kernels.modulated_norm, {.rows = x[0],
                                         .width = x[1],
                                         .dtype = call.dtype,
                                         .y_dtype = yDtype,
                                         .epsilon = call.attributes.epsilon,
                                         .x = call.input(0),
                                         .scale = call.floats(1),
                                         .shift = call.floats(2),
                                         .y = call.output(0, x),
                                         .y_scale = static_cast<float *>(yScale)});
}

static void *advance(void *rows, int64_t values, fluxd_dtype dtype) {
  return static_cast<char *>(rows) + values * (dtype == FLUXD_F32 ? 4 : 2);
}

static void computeQkNormRope(const Call &call) {
  constexpr size_t cosAt = 0, sinAt = 1, streamAt[] = {2, 5};
  const int64_t half = call.dims(cosAt, 2, "cos")[1], tokens = call.dims(cosAt, 2, "cos")[0];
  const int64_t headDim = 2 * half, width = call.attributes.heads * headDim;
  call.expectDims(sinAt, {tokens, half}, "sin");
  void *parts[3];
  for (size_t i = 0; i < 3; i++) parts[i] = call.output(i, {tokens, width});
  int64_t done = 0;
  for (size_t stream : streamAt) {
    if (!call.input(stream)) continue;
    const int64_t rows = call.dims(stream, 2, "qkv")[0];
    call.expectDims(stream, {rows, 3 * width}, "qkv");
    call.expectDims(stream + 1, {headDim}, "the scale of q");
    call.expectDims(stream + 2, {headDim}, "the scale of k");
    if (done + rows > tokens) break;
    call.run(call.kernels.qk_norm_rope, {.rows = rows,
                                         .heads = call.attributes.heads,
                                         .head_dim = headDim,
                                         .dtype = call.dtype,
                                         .epsilon = call.attributes.epsilon,
                                         .qkv = call.input(stream),
                                         .q_scale = call.input(stream + 1),
                                         .k_scale = call.input(stream + 2),
                                         .cos = call.floats(cosAt) + done * half,
                                         .sin = call.floats(sinAt) + done * half,
                                         .q = advance(parts[0], done * width, call.dtype),
                                         .k = advance(parts[1], done * width, call.dtype),
                                         .v = advance(parts[2], done * width, call.dtype)});
    done += rows;
  }
  if (done != tokens)
    throw std::invalid_argument("expected qkv of " + std::to_string(tokens) +
                                " rows, one per angle, but got others");
}

const OpDefinition quantizeRowsOp = {
    .name = "QuantizeRows",
    .inputs = {{activation}, {activation, true}},
    .outputs = {{e4m3}, {floats}},
    .compute = computeQuantizeRows,
};

const OpDefinition modulatedNormOp = {
    .name = "ModulatedNorm",
    .inputs = {{activation}, {floats}, {floats}},
    .outputs = {{activation}},
    .compute = [](const Call &call) { computeModulatedNorm(call, call.dtype); },
};

const OpDefinition modulatedNormFp8Op = {
    .name = "ModulatedNormFp8",
    .inputs = {{activation}, {floats}, {floats}},
    .outputs = {{e4m3}, {floats}},
    .compute = [](const Call &call) { computeModulatedNorm(call, FLUXD_E4M3); },
};

const OpDefinition qkNormRopeOp = {
    .name = "QkNormRope",
    .inputs = {{floats}, {floats}, {activation}, {activation}, {activation},
               {activation, true}, {activation, true}, {activation, true}},
    .outputs = {{activation}, {activation}, {activation}},
    .compute = computeQkNormRope,
};

}  // namespace fluxd
