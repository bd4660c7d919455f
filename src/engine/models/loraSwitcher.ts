/**
 * The networks of a variant at a precision, with LoRAs merged in: in place where a transformer's
 * weights can be changed; else sessions hold merged weights, and another set of LoRAs means other
 * sessions. Either way every merge starts from the checkpoint's own tensors, whatever ran before.
 * What has been loaded stays as long as there is room; of sets of LoRAs the last one does.
 */

import { createMutex } from '../../async/mutex.js'
import type { LoraFile, Precision } from '../../plan/plan.js'
import { type LowRankChanges, unchanged } from '../runtime/backends/backend.js'
import { type Base, type Company, createBase, type Entered, enterPart } from './baseTransformer.js'
import {
  type AdaptedParts,
  type LoraSet,
  type MergeSettings,
  openLoraSet,
  type TransformerChange,
} from './loraSet.js'
import { createLoraSets, identity } from './loraSetCache.js'
import type { Part, Room } from './memory.js'
import type { Resident } from './memoryBudget.js'
import {
  createPromptEncoder,
  encodeOnDemand,
  type PromptEncoder,
  type TextEncoder,
} from './textEncoders.js'
import type { Transformer } from './transformer.js'

/** The networks that a LoRA may change. */
export type Adapted = {
  readonly prompt: PromptEncoder
  /** What of the LoRAs has no place in them. */
  readonly notes: readonly string[]
  /** Has the transformer ready. */
  readonly enter: (company?: Company) => Promise<Entered>
}

/** How the networks are loaded, and what their weights take. */
export type Networks = {
  /** What the parts are called in. */
  readonly name: string
  readonly loadTransformer: (
    component: AdaptedParts['transformer'],
    precision: Precision,
    use: 'adaptable' | 'fixed',
  ) => Promise<Transformer>
  readonly transformerBytes: Readonly<Record<Precision, number>>
  readonly loadClip: (component: AdaptedParts['clip']) => Promise<TextEncoder>
  readonly clipBytes: number
  /** No LoRA changes it. */
  readonly t5: TextEncoder['encode']
  /** Whether the backend can change a transformer's weights in place. */
  readonly changesInPlace: boolean
}

export type Adapters = {
  /** The transformers without LoRAs. */
  readonly bases: Readonly<Record<Precision, Resident>>
  /**
   * The networks with `loras` merged in, each at its scale; LoRAs of scale 0 count as absent.
   * Throws `lora_invalid` when a file is none or is made for another model.
   */
  readonly select: (precision: Precision, loras: readonly LoraFile[]) => Promise<Adapted>
  /**
   * Reads and uploads ahead what the networks that `select` gives for the same would read and upload,
   * while others run. Does nothing where weights do not change in place or are not loaded at this
   * precision, and leaves it to `select` to say what is wrong with a file.
   */
  readonly prepare: (precision: Precision, loras: readonly LoraFile[]) => Promise<void>
  readonly release: () => Promise<void>
}

/** What is open, and under which name it can be had again. */
type Held<T> = { readonly key: string; readonly value: T }

type MergedNetworks = {
  readonly adapted: Adapted
  /** What is loaded for them alone. */
  readonly parts: readonly Part[]
}

/** Loads nothing: networks come when they are entered. */
export function createAdapters(
  parts: AdaptedParts,
  networks: Networks,
  settings: Omit<MergeSettings, 'changesInPlace'>,
  room: Room,
): Adapters {
  const { name, changesInPlace } = networks
  const clip = room.part({
    name: `${name} CLIP`,
    bytes: networks.clipBytes,
    load: () => networks.loadClip(parts.clip),
  })
  const basePrompt = createPromptEncoder(encodeOnDemand(clip, room), networks.t5)
  const inTurn = createMutex()
  const sets = createLoraSets((precision, files) =>
    openLoraSet(parts, precision, files, { ...settings, changesInPlace }),
  )
  let merged: Held<MergedNetworks> | undefined

  const openBase = (precision: Precision): Base =>
    createBase(room, {
      name: `${name} ${precision}`,
      bytes: networks.transformerBytes[precision],
      load: () => networks.loadTransformer(parts.transformer, precision, 'adaptable'),
    })
  const bases = { bf16: openBase('bf16'), fp8: openBase('fp8') }

  const withChanges = (base: Base, changes: LowRankChanges, prompt: PromptEncoder) => ({
    prompt,
    enter: (company?: Company) => base.enter(changes, company),
  })

  /** Sessions of its own share with the base all that is not merged, which must be as it was. */
  function ownTransformer(
    base: Base,
    merge: Extract<TransformerChange, { kind: 'merged' }>['merge'],
    scales: readonly number[],
    precision: Precision,
  ): Part<Transformer> {
    return room.part({
      ...{ name: `${base.part.name} with LoRAs`, bytes: base.part.bytes },
      ...(changesInPlace && { of: base.part.name }),
      async load() {
        const { component, release } = await merge(scales)
        return networks.loadTransformer(component, precision, 'fixed').finally(release)
      },
    })
  }

  const withOwn = (base: Base, own: Part<Transformer>, prompt: PromptEncoder) => ({
    prompt,
    async enter(company: Company = {}) {
      if (!changesInPlace) return enterPart(room, own, company)
      const { leave } = await base.enter(unchanged)
      const others = [...(company.others ?? []), base.part]
      return enterPart(room, own, { ...company, others }).finally(leave)
    },
  })

  function mergeNetworks(
    precision: Precision,
    { transformer: change, clip: mergeClip, notes }: LoraSet,
    scales: readonly number[],
  ): MergedNetworks {
    const base = bases[precision]
    const ownClip = mergeClip && clipWithLoras(mergeClip, scales)
    const prompt = ownClip
      ? createPromptEncoder(encodeOnDemand(ownClip, room), networks.t5)
      : basePrompt
    const clips = ownClip ? [ownClip] : []
    if (change.kind === 'merged') {
      const own = ownTransformer(base, change.merge, scales, precision)
      return { adapted: { ...withOwn(base, own, prompt), notes }, parts: [own, ...clips] }
    }
    const adapted = { ...withChanges(base, changesOf(change, scales), prompt), notes }
    return { adapted, parts: clips }
  }

  const clipWithLoras = (merge: NonNullable<LoraSet['clip']>, scales: readonly number[]) =>
    room.part({
      ...{ name: `${clip.name} with LoRAs`, bytes: networks.clipBytes },
      async load() {
        const { component, release } = await merge(scales)
        return networks.loadClip(component).finally(release)
      },
    })

  async function dropMerged() {
    const own = merged?.value.parts ?? []
    merged = undefined
    await room.release(own)
  }

  async function select(precision: Precision, loras: readonly LoraFile[]): Promise<Adapted> {
    const files = loras.filter(hasEffect)
    if (files.length === 0)
      return { ...withChanges(bases[precision], unchanged, basePrompt), notes: [] }
    const key = [precision, ...files.map((file) => `${identity(file)} ${file.scale}`)].join('\n')
    if (merged?.key === key) return merged.value.adapted
    const set = await sets.use(precision, files)
    // The old set goes first: two sets of a large model would not fit.
    await dropMerged()
    const value = mergeNetworks(precision, set, files.map(scaleOf))
    merged = { key, value }
    return value.adapted
  }

  async function prepare(precision: Precision, loras: readonly LoraFile[]): Promise<void> {
    const { part, stage } = bases[precision]
    if (!changesInPlace || !part.isLoaded()) return
    const files = loras.filter(hasEffect)
    if (files.length === 0) return stage(unchanged)
    const { transformer } = await sets.prepare(precision, files)
    await stage(changesOf(transformer, files.map(scaleOf)))
  }

  async function release() {
    await dropMerged()
    await sets.release()
    await room.release([bases.bf16.part, bases.fp8.part, clip])
  }

  return {
    bases: { bf16: bases.bf16.part, fp8: bases.fp8.part },
    select: (precision, loras) => inTurn(() => select(precision, loras)),
    prepare: (precision, loras) => inTurn(() => prepare(precision, loras)).catch(() => {}),
    release: () => inTurn(release),
  }
}

const hasEffect = ({ scale }: LoraFile) => scale !== 0

const scaleOf = ({ scale }: LoraFile) => scale

/** In the base's own weights: none where they are merged into another transformer's. */
const changesOf = (change: TransformerChange, scales: readonly number[]) =>
  change.kind === 'inPlace' ? change.changes(scales) : unchanged
