/**
 * Opens LoRA files: reads their header, checks every key against the networks, and finds out what
 * the file means. All known schemes are accepted (keys.ts, modules.ts, deltas.ts); docs/loras.md
 * says whose reading is followed where ComfyUI, diffusers and kohya differ.
 */
import { FluxdError, invalidLora } from '../../../errors.js'
import type { LoraFile } from '../../../plan/plan.js'
import { openSafetensors, type SafetensorsFile } from '../../../safetensors/read.js'
import type { LoraAdapter, LoraScheme } from './adapter.js'
import { type Group, groupDeltas } from './deltas.js'
import { checkFinite } from './finite.js'
import {
  groupKeys,
  type LoraBase,
  namesOf,
  refuseControlLora,
  refuseManyAdapters,
} from './groups.js'
import { type Contradiction, withoutRepetitions } from './repetition.js'
import { readScaling } from './scaling.js'

/**
 * The LoRA in a safetensors file, with all its values checked to be finite. Errors call it `name`.
 * Throws `lora_invalid` naming the first bad key, or saying what the file is instead of a LoRA.
 */
export async function openLora(
  file: Pick<LoraFile, 'name' | 'path'>,
  base: LoraBase,
  threads: number,
): Promise<LoraAdapter> {
  const adapter = readLora(openFile(file), base)
  await checkFinite(adapter, threads)
  return adapter
}

function openFile({ name, path }: Pick<LoraFile, 'name' | 'path'>): SafetensorsFile {
  try {
    return openSafetensors(path, { name })
  } catch (cause) {
    if (cause instanceof FluxdError) throw invalidLora(cause.message, cause)
    throw cause
  }
}

/**
 * What the keys of `file` add to which tensors of the base model. Values are not read, except for
 * the alpha scalars, for zeros in keys that name no layer, and for layers that are named twice.
 * Throws `lora_invalid` as `openLora` does.
 */
export function readLora(file: SafetensorsFile, base: LoraBase): LoraAdapter {
  refuseControlLora(file)
  const { groups, ignored, unmatched, twice, adapters } = groupKeys(file, base)
  refuseManyAdapters(file.name, adapters)
  const [fault] = [...unmatched, ...twice]
  if (fault) throw fault.error()
  if (groups.length === 0)
    throw invalidLora(
      `${file.name}: expected changes to at least one layer of Flux.1 but ` +
        `${describeEmpty(ignored)}`,
    )
  const scaling = readScaling(file)
  const given = groups.map((group) => ({ group, deltas: groupDeltas(file.name, group, scaling) }))
  const { deltas, kept, repeated, contradictions } = withoutRepetitions(file.path, given)
  if (contradictions[0])
    throw invalidLora(
      `${file.name}: expected one change per layer but ${describeContradiction(contradictions[0])}`,
    )
  return {
    source: file.name,
    scheme: schemeOf(kept),
    deltas,
    ignored: [...ignored, ...namesOf(repeated)],
  }
}

/** As a sentence about the tensor. */
export const describeContradiction = ({ tensor, group, by }: Contradiction) =>
  `${tensor} is changed by ${by.key.stem} and, differently, by ${group.key.stem}`

const describeEmpty = (ignored: readonly string[]) =>
  ignored.length > 0
    ? `the file holds only ${ignored.length} tensors that are not merged, the first is ` +
      `${ignored[0]}`
    : 'the file holds no tensors'

const schemeOf = (groups: readonly Group[]): LoraScheme =>
  (groups.find(({ key }) => key.network === 'transformer') ?? groups[0]!).key.scheme
