/**
 * The operators that the networks are built from. A dialect decides which ONNX nodes each operator
 * becomes. Sequences are [N, D] (batch 1 needs no axis of its own), images are [1, C, H, W].
 */
import type { Graph, Value } from '../onnx/graph.js'
import type { Layer, TensorSource } from '../weights/weights.js'

/** `fp8` rounds weights and inputs of the layers that `blockLinear` names to e4m3. */
export type Precision = 'bf16' | 'fp8'

/** Angles of each row, [N, headDim/2]. */
export type RopeTables = { readonly cos: Value; readonly sin: Value }

/** The input of a layer: one value, or the columns of two side by side, which need no Concat. */
export type Columns = Value | readonly [Value, Value]

/** Applied to t = x·Wᵀ + b: GELU (by tanh) of it, or residual + gate·t, where gate is [out]. */
export type Epilogue =
  | { readonly kind: 'gelu' }
  | { readonly kind: 'gated'; readonly residual: Value; readonly gate: Value }

/** One stream of an attention: its rows and the layers that make q, k and v of them. */
export type QkvStream = {
  readonly x: Value
  readonly q: Layer
  readonly k: Layer
  readonly v: Layer
  /** [headDim] */
  readonly normQ: TensorSource
  readonly normK: TensorSource
}

/** [N, heads·headDim] each. */
export type Qkv = { readonly q: Value; readonly k: Value; readonly v: Value }

export type AttentionOptions = {
  readonly heads: number
  readonly scale: number
  /** Added to the scores, [1, heads, N, N]. */
  readonly bias?: Value
  readonly causal?: boolean
}

export type Ops = {
  readonly graph: Graph

  /** y = x·Wᵀ + b; x [N, in], W [out, in] → [N, out]. */
  readonly linear: (x: Value, layer: Layer) => Value
  /** `linear` for the large layers of a block, where nearly all weights are: what fp8 quantises. */
  readonly blockLinear: (x: Columns, layer: Layer, epilogue?: Epilogue) => Value
  /** Rows of a table [V, D] for int32 ids [N] → [N, D]. */
  readonly embedding: (table: TensorSource, ids: Value) => Value
  /** A vector or matrix weight as float32. */
  readonly weight: (slice: TensorSource) => Value

  /** LayerNorm(x)·scale + shift, where scale already holds the 1 of (1 + scale). */
  readonly modulatedNorm: (x: Value, scale: Value, shift: Value) => Value
  readonly layerNorm: (x: Value, layer: Layer, epsilon: number) => Value
  readonly rmsNorm: (x: Value, scale: TensorSource, epsilon: number) => Value
  /**
   * q, k and v of all streams, one below the other. Each is a `blockLinear`; q and k then have an
   * RMS norm over each head, and interleaved pairs are rotated by the tables' angles.
   */
  readonly rotatedQkv: (streams: readonly QkvStream[], tables: RopeTables, heads: number) => Qkv
  /** softmax(q·kᵀ·scale + bias)·v per head; q, k, v [N, heads·headDim]. One fused op. */
  readonly attention: (q: Value, k: Value, v: Value, options: AttentionOptions) => Value

  /** x·Φ(x), by the error function. */
  readonly gelu: (x: Value) => Value
  readonly geluTanh: (x: Value) => Value
  readonly quickGelu: (x: Value) => Value
  readonly silu: (x: Value) => Value
  readonly add: (a: Value, b: Value) => Value
  readonly mul: (a: Value, b: Value) => Value
  readonly reshape: (x: Value, dims: readonly number[]) => Value
  /** x with the dims of `model`. */
  readonly reshapeLike: (x: Value, model: Value) => Value
  readonly transpose: (x: Value, order: readonly number[]) => Value
  readonly concat: (parts: readonly Value[], axis: number) => Value
  /** Equal parts along an axis. */
  readonly split: (x: Value, count: number, axis: number) => Value[]
  /** x cut after as many rows as `head` has. */
  readonly splitAfter: (x: Value, head: Value) => readonly [Value, Value]

  readonly conv: (x: Value, layer: Layer, options: ConvOptions) => Value
  readonly groupNorm: (x: Value, layer: Layer, groups: number) => Value
  readonly groupNormSilu: (x: Value, layer: Layer, groups: number) => Value
  /** Nearest neighbour, twice as high and wide. */
  readonly upsample: (x: Value) => Value
}

/** Pads are top, left, bottom, right. */
export type ConvOptions = {
  readonly stride: number
  readonly pads: readonly [number, number, number, number]
}
