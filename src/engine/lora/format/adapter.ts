/**
 * What a LoRA file means, whatever scheme its keys follow: for every tensor of the base model that
 * it changes, what is added to it at scale 1. Tensors carry fluxd's own names (diffusers' modules,
 * norm_out.linear cut into its halves); values stay in the file.
 */
import { sliceRows, type TensorSlice } from '../../../safetensors/read.js'

/** A matrix, or the product of two: [out, r]·[r, in]. */
export type Factor = readonly [TensorSlice] | readonly [TensorSlice, TensorSlice]

/** factor·up·down */
type LowRank = {
  readonly kind: 'lowRank'
  readonly up: TensorSlice
  readonly down: TensorSlice
  readonly factor: number
}

/** factor·(first ⊙ second), where both are products up·down. */
type LoHa = {
  readonly kind: 'loha'
  readonly first: readonly [TensorSlice, TensorSlice]
  readonly second: readonly [TensorSlice, TensorSlice]
  readonly factor: number
}

/** factor·kron(first, second), of which `rows` are this tensor's. */
type LoKr = {
  readonly kind: 'lokr'
  readonly first: Factor
  readonly second: Factor
  readonly factor: number
  readonly rows: { readonly begin: number; readonly end: number }
}

/** factor·values: a difference stored as it is, of a weight or of a bias. */
type Full = { readonly kind: 'full'; readonly values: TensorSlice; readonly factor: number }

export type Change = LowRank | LoHa | LoKr | Full

/**
 * DoRA: magnitude ⊙ (W + Σ changes) / ‖W + Σ changes‖ − W, the norm over each row or column of the
 * base tensor's new direction. The columns of a fused layer go on through all of its tensors.
 */
export type Dora = {
  readonly kind: 'dora'
  readonly changes: readonly Change[]
  readonly magnitude: TensorSlice
  readonly normOver: 'rows' | 'columns'
  /** The layer's other tensors, where the norm is over columns. */
  readonly others: readonly DoraPart[]
}

/** A tensor of the base, by name, and what is added to it before its norm is taken. */
export type DoraPart = { readonly tensor: string; readonly changes: readonly Change[] }

export type Delta = Change | Dora

/** Deltas by the name of the tensor they change. */
export type Deltas = ReadonlyMap<string, readonly Delta[]>

/** Whose way of naming a file follows. */
export type LoraScheme =
  | 'diffusers'
  | 'kohya'
  | 'comfy'
  | 'onetrainer'
  | 'lycoris'
  | 'xlabs'
  | 'fal'
  | 'bare'

export type LoraAdapter = {
  /** The file that messages name. */
  readonly source: string
  readonly scheme: LoraScheme
  readonly deltas: Deltas
  /** Keys of parts that are not merged (T5, guidance on schnell), repetitions, zeros, notes. */
  readonly ignored: readonly string[]
}

/** The part of a change that falls on rows [begin, end) of the module it was trained on. */
export function changeRows(change: Change, begin: number, end: number): Change {
  const cut = (slice: TensorSlice) => sliceRows(slice, begin, end)
  switch (change.kind) {
    case 'lowRank':
      return { ...change, up: cut(change.up) }
    case 'loha': {
      const [up1, down1] = change.first
      const [up2, down2] = change.second
      return { ...change, first: [cut(up1), down1], second: [cut(up2), down2] }
    }
    case 'lokr':
      return { ...change, rows: { begin, end } }
    case 'full':
      return { ...change, values: cut(change.values) }
    default:
      return change satisfies never
  }
}

/** Every tensor of the file that a delta reads. */
export function deltaTensors(delta: Delta): readonly TensorSlice[] {
  switch (delta.kind) {
    case 'lowRank':
      return [delta.up, delta.down]
    case 'loha':
    case 'lokr':
      return [...delta.first, ...delta.second]
    case 'full':
      return [delta.values]
    case 'dora':
      return [...delta.changes.flatMap(deltaTensors), delta.magnitude]
    default:
      return delta satisfies never
  }
}
