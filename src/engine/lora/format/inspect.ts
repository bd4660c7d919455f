/**
 * What is in a LoRA file, for display: where `readLora` stops at the first thing that is wrong,
 * here all of them are listed. The same values are read as there.
 */
import { FluxdError } from '../../../errors.js'
import type { SafetensorsFile } from '../../../safetensors/read.js'
import type { Delta, LoraScheme } from './adapter.js'
import { type Group, groupDeltas } from './deltas.js'
import {
  groupKeys,
  type KeyFault,
  type LoraBase,
  namesOf,
  refuseControlLora,
  refuseManyAdapters,
} from './groups.js'
import { describeContradiction } from './read.js'
import { type GroupDeltas, withoutRepetitions } from './repetition.js'
import { readScaling, type Scaling } from './scaling.js'

export type ModuleReport = {
  /** As the file spells it. */
  readonly name: string
  readonly scheme: LoraScheme
  readonly kind: Delta['kind']
  /** Undefined for what is no product of two matrices. */
  readonly rank: number | undefined
  readonly alpha: number | undefined
  /** What the product is multiplied by at scale 1: alpha / rank. */
  readonly factor: number
  /** The tensors of the base model that it changes. */
  readonly changes: readonly string[]
}

/** A key, or a module, and a sentence about what is wrong with it. */
export type Fault = { readonly name: string; readonly reason: string }

export type LoraReport = {
  readonly schemes: readonly LoraScheme[]
  readonly modules: readonly ModuleReport[]
  readonly matched: readonly string[]
  /** Of parts that are not merged, on purpose. */
  readonly ignored: readonly string[]
  readonly unmatched: readonly Fault[]
  /** What does not go together or does not fit the base model. */
  readonly faults: readonly Fault[]
  readonly metadata: Readonly<Record<string, string>>
}

/** Flux.1 dev as published, for files that were not made for the checkpoint at hand. */
export const publishedBase: LoraBase = {
  transformer: {
    heads: 24,
    headDim: 128,
    doubleBlocks: 19,
    singleBlocks: 38,
    inChannels: 64,
    txtDim: 4096,
    vecDim: 768,
    axes: [16, 56, 56],
    guidance: true,
  },
  clip: {
    hidden: 768,
    layers: 12,
    heads: 12,
    mlpHidden: 3072,
    vocabulary: 49408,
    positions: 77,
    epsilon: 1e-5,
  },
}

/** Whether the file can be merged into the base model that it was inspected for. */
export const isUsable = ({ modules, unmatched, faults }: LoraReport) =>
  modules.length > 0 && unmatched.length === 0 && faults.length === 0

/** Everything that `file` holds, as seen from the networks of `base`. */
export function inspectLora(file: SafetensorsFile, base: LoraBase): LoraReport {
  const { groups, ignored, unmatched, twice, adapters } = groupKeys(file, base)
  const control = catchFault('the file', file.name, () => refuseControlLora(file))
  const many = catchFault('the file', file.name, () => refuseManyAdapters(file.name, adapters))
  const scaling = catchFault('lora_adapter_metadata', file.name, () => readScaling(file))
  const read = groups.map((group) =>
    catchFault(group.key.stem, file.name, (): GroupDeltas => {
      return { group, deltas: groupDeltas(file.name, group, scaling.value ?? unscaled) }
    }),
  )
  const sound = read.flatMap(({ value }) => value ?? [])
  const { repeated, contradictions } = withoutRepetitions(file.path, sound)
  const isRepeated = (group: Group) => repeated.includes(group)
  return {
    schemes: [...new Set(groups.map(({ key }) => key.scheme))],
    modules: sound.filter(({ group }) => !isRepeated(group)).map(reportModule),
    matched: namesOf(groups.filter((group) => !isRepeated(group))),
    ignored: [...ignored, ...namesOf(repeated)],
    unmatched: unmatched.map(toFault(file.name)),
    faults: [
      ...[control, many, scaling, ...read].flatMap(({ fault }) => fault ?? []),
      ...twice.map(toFault(file.name)),
      ...contradictions.map((each) => ({
        name: each.group.key.stem,
        reason: describeContradiction(each),
      })),
    ],
    metadata: file.metadata,
  }
}

const unscaled: Scaling = { factor: () => 1 }

const toFault =
  (path: string) =>
  ({ name, error }: KeyFault): Fault => ({ name, reason: reasonOf(path, error()) })

function reportModule({ group, deltas }: GroupDeltas): ModuleReport {
  const [, first] = deltas[0]!
  const { rank, factor } = measure(first)
  return {
    name: group.key.stem,
    scheme: group.key.scheme,
    kind: first.kind,
    rank,
    alpha: rank === undefined ? undefined : factor * rank,
    factor,
    changes: deltas.map(([name]) => name),
  }
}

function measure(delta: Delta): { rank: number | undefined; factor: number } {
  switch (delta.kind) {
    case 'lowRank':
      return { rank: delta.down.shape[0], factor: delta.factor }
    case 'loha':
      return { rank: delta.first[1].shape[0], factor: delta.factor }
    case 'lokr': {
      const product = [delta.second, delta.first].find((factor) => factor.length === 2)
      return { rank: product?.[1]?.shape[0], factor: delta.factor }
    }
    case 'full':
      return { rank: undefined, factor: delta.factor }
    case 'dora':
      return measure(delta.changes[0]!)
    default:
      return delta satisfies never
  }
}

function catchFault<T>(
  name: string,
  path: string,
  read: () => T,
): { readonly value?: T; readonly fault?: Fault } {
  try {
    return { value: read() }
  } catch (error) {
    if (!(error instanceof FluxdError)) throw error
    return { fault: { name, reason: reasonOf(path, error) } }
  }
}

/** The sentence without the file that it begins with. */
const reasonOf = (path: string, { message }: Error) =>
  message.startsWith(`${path}: `) ? message.slice(path.length + 2) : message
