/**
 * A network's weights by name. Networks ask for each tensor with the shape they need, so a
 * checkpoint is checked completely by building its graphs, before any session exists.
 */
import { invalidCheckpoint } from '../../../errors.js'
import type { TensorSlice } from '../../../safetensors/read.js'
import type { StoredDType } from '../../../safetensors/tensor.js'

/** A tensor's values in memory, in place of what a file holds under the same name. */
export type TensorInMemory = {
  readonly name: string
  readonly dtype: 'F32' | 'BF16'
  readonly shape: readonly number[]
  /** Bits where the dtype is BF16. */
  readonly values: Float32Array | Uint16Array
}

/** Where a graph finds a weight. */
export type TensorSource = TensorSlice | TensorInMemory

/** A linear or convolution layer; T5's layers have no bias. */
export type Layer = { readonly weight: TensorSource; readonly bias?: TensorSource }

export type Weights = {
  /** Throws `checkpoint_invalid` if the tensor is missing or of another shape or dtype. */
  readonly tensor: (name: string, shape: readonly number[]) => TensorSource
  /** `name.weight` of this shape, with `name.bias` of its first dim. */
  readonly layer: (name: string, shape: readonly number[]) => Layer
  readonly all: () => readonly TensorSlice[]
  /** The checkpoint's own tensors by name, without merged LoRAs. */
  readonly pristine: ReadonlyMap<string, TensorSlice>
  /** The names of tensors that no network uses. */
  readonly unused: () => string[]
}

const usable: readonly StoredDType[] = ['F32', 'F16', 'BF16', 'F8_E4M3']

/** The weights of one network; messages name the file or folder `source`. */
export function createWeights(source: string, tensors: ReadonlyMap<string, TensorSlice>): Weights {
  const used = new Set<string>()

  function tensor(name: string, shape: readonly number[]): TensorSlice {
    const slice = tensors.get(name)
    if (!slice)
      throw invalidCheckpoint(
        `${source}: expected tensor ${name} of shape [${shape}] but it is missing`,
      )
    if (!hasShape(slice, shape))
      throw invalidCheckpoint(
        `${source}: expected tensor ${name} of shape [${shape}] but it is [${slice.shape}]`,
      )
    if (!usable.includes(slice.dtype))
      throw invalidCheckpoint(
        `${source}: expected tensor ${name} in ${usable.join(', ')} but it is ${slice.dtype}, ` +
          'which is not supported yet',
      )
    used.add(name)
    return slice
  }

  return {
    tensor,
    layer: layersOf(tensor),
    all: () => [...tensors.values()],
    pristine: tensors,
    unused: () => [...tensors.keys()].filter((name) => !used.has(name)),
  }
}

/** The same weights with the tensors of `merged` in place of the checkpoint's. */
export function withMerged(weights: Weights, merged: ReadonlyMap<string, TensorSource>): Weights {
  for (const name of merged.keys())
    if (!weights.pristine.has(name))
      throw new RangeError(`Expected the name of a tensor to replace but got ${name}`)

  function tensor(name: string, shape: readonly number[]): TensorSource {
    const pristine = weights.tensor(name, shape)
    const source = merged.get(name)
    if (!source) return pristine
    if (!hasShape(source, shape))
      throw new RangeError(`Expected ${name} merged as [${shape}] but got [${source.shape}]`)
    return source
  }
  return { ...weights, tensor, layer: layersOf(tensor) }
}

const hasShape = (source: TensorSource, shape: readonly number[]) =>
  source.shape.length === shape.length && source.shape.every((dim, i) => dim === shape[i])

const layersOf =
  (tensor: Weights['tensor']): Weights['layer'] =>
  (name, shape) => ({
    weight: tensor(`${name}.weight`, shape),
    bias: tensor(`${name}.bias`, shape.slice(0, 1)),
  })

/** Throws when the file has tensors that no network uses: it is of another size or kind. */
export function refuseUnused(source: string, weights: Weights, ignored: RegExp = /$^/) {
  const foreign = weights.unused().filter((name) => !ignored.test(name))
  if (foreign.length > 0)
    throw invalidCheckpoint(
      `${source}: ${foreign.length} tensors have no place in this model, the first is ` +
        `${foreign[0]}; does the config fit the file?`,
    )
}
