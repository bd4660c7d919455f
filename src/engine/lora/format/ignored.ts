/**
 * Which keys of a LoRA file change nothing that fluxd merges. They are listed and the file is
 * merged without them; every other key that cannot be read is a reason to refuse the file.
 */
import type { SafetensorsFile, TensorSlice } from '../../../safetensors/read.js'
import { isAllZero } from '../../../safetensors/scalar.js'
import { elementCount } from '../../../safetensors/tensor.js'
import type { FluxParams } from '../../flux/params.js'
import { describeForeignKey } from './foreign.js'
import { hasRole, roleOf, stemOf, type Vocabulary } from './keys.js'
import { isClipKey, isOtherTextKey } from './wrappers.js'

// Of CLIP's pooled vector, which Flux.1 takes before the projection, and of its tables.
const unmergedClip = /embedding|text_projection|logit_scale|position_ids/

/** Whether the tensor is of a part that no Flux.1 pipeline merges, or holds no values. */
export const isOfUnmergedPart = (
  { name, shape }: TensorSlice,
  { clip }: Vocabulary,
  { guidance }: FluxParams,
) =>
  elementCount(shape) === 0 ||
  isOtherTextKey(name) ||
  (isClipKey(name) && (!clip || unmergedClip.test(name))) ||
  (!guidance && /guidance_(in|embedder)/.test(name))

/**
 * Whether a key that cannot be read is no layer's: an embedding, a counter, a note. What could be
 * a layer of a transformer has a role or a block's number.
 */
export const isNoLayer = (key: string) =>
  !hasRole(key) && !/(blocks?|layers?)[._]\d/.test(key) && !describeForeignKey(key)

// What is read to find zeros; every other tensor is left at its first value.
const maxBytesRead = 2 ** 28

/** The keys among `unknown` whose tensors, taken together, add nothing but zeros to a layer. */
export function findInert({ tensors }: SafetensorsFile, unknown: readonly string[]): Set<string> {
  let budget = maxBytesRead
  const zeros = new Set(
    unknown.filter((key) => {
      const slice = tensors.get(key)!
      if (slice.byteLength > budget || !isAllZero(slice)) return false
      budget -= slice.byteLength
      return true
    }),
  )
  const stems = new Map<string, string[]>()
  for (const key of unknown) stems.set(stemOf(key), [...(stems.get(stemOf(key)) ?? []), key])
  return new Set([...stems.values()].filter((keys) => areInert(keys, zeros)).flat())
}

/** A product of zeros is zero, whatever else is multiplied; an alpha alone changes nothing. */
function areInert(keys: readonly string[], zeros: ReadonlySet<string>): boolean {
  const isZeroProduct = keys.some(
    (key) => zeros.has(key) && ['up', 'down', 'alpha'].includes(roleOf(key) ?? ''),
  )
  const harmless = isZeroProduct ? ['up', 'down', 'alpha'] : ['alpha']
  return keys.every((key) => zeros.has(key) || harmless.includes(roleOf(key) ?? ''))
}
