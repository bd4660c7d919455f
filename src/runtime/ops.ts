/**
 * The vocabulary in which the networks are written. A dialect decides which ONNX nodes each word
 * becomes. Sequences are [N, D] (batch 1 needs no axis of its own), pictures are [1, C, H, W].
 */
import type { Graph, Value } from './graph.js'
import type { Layer, TensorSource } from './weights.js'

export type RopeTables = { readonly cos: Value; readonly sin: Value }

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
  /** Rows of a table [V, D] for int32 ids [N] → [N, D]. */
  readonly embedding: (table: TensorSource, ids: Value) => Value
  /** A vector or matrix weight as float32. */
  readonly weight: (slice: TensorSource) => Value

  /** LayerNorm(x)·scale + shift, where scale already holds the 1 of (1 + scale). */
  readonly modulatedNorm: (x: Value, scale: Value, shift: Value) => Value
  readonly layerNorm: (x: Value, layer: Layer, epsilon: number) => Value
  readonly rmsNorm: (x: Value, scale: TensorSource, epsilon: number) => Value
  /** RMS norm over each head of x [N, heads·headDim]; `scale` is [headDim]. */
  readonly headNorm: (x: Value, scale: TensorSource, heads: number) => Value
  /** Rotates interleaved pairs of each head by the tables' angles, [N, headDim/2]. */
  readonly rope: (x: Value, tables: RopeTables, heads: number) => Value
  /** softmax(q·kᵀ·scale + bias)·v per head; q, k, v [N, heads·headDim]. One fused op. */
  readonly attention: (q: Value, k: Value, v: Value, options: AttentionOptions) => Value
  /** x + gate·change; gate is [D]. */
  readonly gatedAdd: (x: Value, gate: Value, change: Value) => Value

  readonly geluTanh: (x: Value) => Value
  readonly quickGelu: (x: Value) => Value
  readonly silu: (x: Value) => Value
  readonly add: (a: Value, b: Value) => Value
  readonly mul: (a: Value, b: Value) => Value
  readonly reshape: (x: Value, dims: readonly number[]) => Value
  readonly transpose: (x: Value, order: readonly number[]) => Value
  readonly concat: (parts: readonly Value[], axis: number) => Value
  /** Equal parts along an axis. */
  readonly split: (x: Value, count: number, axis: number) => Value[]
  /** x cut after as many rows as `head` has. */
  readonly splitAfter: (x: Value, head: Value) => readonly [Value, Value]

  readonly conv: (x: Value, layer: Layer, options: ConvOptions) => Value
  readonly groupNorm: (x: Value, layer: Layer, groups: number) => Value
  /** Nearest neighbour, twice as high and wide. */
  readonly upsample: (x: Value) => Value
}

/** Pads are top, left, bottom, right. */
export type ConvOptions = {
  readonly stride: number
  readonly pads: readonly [number, number, number, number]
}
