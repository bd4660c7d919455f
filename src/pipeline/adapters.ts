/**
 * The networks of a variant at a precision, with LoRAs merged in: in place where a transformer's
 * weights can be changed; else sessions hold merged weights, and another set of LoRAs means other
 * sessions. Either way every merge starts from the checkpoint's own tensors, whatever ran before.
 * What has been loaded stays as long as there is room; of sets of LoRAs the last one does.
 */
import { statSync } from 'node:fs'
import { FluxdError } from '../errors.js'
import type { LoraFile, LoraSource, Precision } from '../plan/plan.js'
import { type LowRankChanges, unchanged } from '../runtime/backend.js'
import type { Resident } from './budget.js'
import {
  type AdaptedParts,
  type LoraSet,
  type MergeSettings,
  openLoraSet,
  type TransformerChange,
} from './merging.js'
import {
  createPromptEncoder,
  encodeOnDemand,
  type PromptEncoder,
  type TextEncoder,
} from './prompt.js'
import type { Leave, Part, Room } from './room.js'
import type { Transformer } from './transformer.js'

/** The networks that a LoRA may change. */
export type Adapted = {
  readonly prompt: PromptEncoder
  /**
   * Has the transformer ready, and `others` beside it, until `leave`. `runBytes` is what is done with
   * them.
   */
  readonly enter: (
    others?: readonly Part[],
    runBytes?: number,
  ) => Promise<{ readonly transformer: Transformer; readonly leave: Leave }>
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
  readonly release: () => Promise<void>
}

/** What is open, and under which name it can be had again. */
type Held<T> = { readonly key: string; readonly value: T }

type MergedNetworks = {
  readonly adapted: Adapted
  /** What is loaded for them alone. */
  readonly parts: readonly Part[]
}

/** A transformer without LoRAs of its own, and the copy of its weights that merges start from. */
type Base = { readonly part: Part<Transformer>; readonly copy: () => Part; changes: LowRankChanges }

/** Loads nothing: networks come when they are entered. */
export function createAdapters(
  parts: AdaptedParts,
  networks: Networks,
  settings: Omit<MergeSettings, 'changesInPlace'>,
  room: Room,
): Adapters {
  const { name, changesInPlace } = networks
  const bases = { bf16: createBase('bf16'), fp8: createBase('fp8') }
  const clip = room.part({
    name: `${name} CLIP`,
    bytes: networks.clipBytes,
    load: () => networks.loadClip(parts.clip),
  })
  const basePrompt = createPromptEncoder(encodeOnDemand(clip, room), networks.t5)
  let set: Held<LoraSet> | undefined
  let merged: Held<MergedNetworks> | undefined

  function createBase(precision: Precision): Base {
    const part = room.part({
      name: `${name} ${precision}`,
      bytes: networks.transformerBytes[precision],
      load: () => networks.loadTransformer(parts.transformer, precision, 'adaptable'),
    })
    const weights = () => part.network().adaptable!.base
    const copy = () =>
      room.part({
        ...{ name: `base of ${part.name}`, of: part.name, bytes: weights().bytes },
        async load() {
          await weights().keep()
          return { sessions: [] }
        },
        unload: () => weights().drop(),
      })
    return { part, copy, changes: unchanged }
  }

  /** A base with these changes and no others. */
  function adaptBase(base: Base, changes: LowRankChanges, prompt: PromptEncoder): Adapted {
    return {
      prompt,
      enter: (others = [], runBytes = 0) =>
        entering(base.part, others, runBytes, async (wasLoaded) => {
          const { adaptable } = base.part.network()
          if (!adaptable) return
          // Without changes nobody merges, and when it is loaded there may be room to spare.
          if (!wasLoaded || changes !== base.changes) await room.offer(base.copy())
          await adaptable.adapt(changes)
          base.changes = changes
        }),
    }
  }

  async function entering(
    part: Part<Transformer>,
    others: readonly Part[],
    runBytes: number,
    prepare: (wasLoaded: boolean) => Promise<void>,
  ) {
    const wasLoaded = part.isLoaded()
    const leave = await room.enter([...others, part], runBytes)
    try {
      await prepare(wasLoaded)
      return { transformer: part.network(), leave }
    } catch (error) {
      leave()
      throw error
    }
  }

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

  function adaptOwn(base: Base, own: Part<Transformer>, prompt: PromptEncoder): Adapted {
    if (!changesInPlace)
      return {
        prompt,
        enter: (others = [], runBytes = 0) => entering(own, others, runBytes, async () => {}),
      }
    return {
      prompt,
      enter: (others = [], runBytes = 0) =>
        entering(own, [...others, base.part], runBytes, async () => {
          await base.part.network().adaptable?.adapt(unchanged)
          base.changes = unchanged
        }),
    }
  }

  function mergeNetworks(
    precision: Precision,
    { transformer: change, clip: mergeClip }: LoraSet,
    scales: readonly number[],
  ): MergedNetworks {
    const base = bases[precision]
    const ownClip = mergeClip && clipWithLoras(mergeClip, scales)
    const prompt = ownClip
      ? createPromptEncoder(encodeOnDemand(ownClip, room), networks.t5)
      : basePrompt
    const clips = ownClip ? [ownClip] : []
    if (change.kind === 'inPlace')
      return { adapted: adaptBase(base, change.changes(scales), prompt), parts: clips }
    if (change.kind === 'none') return { adapted: adaptBase(base, unchanged, prompt), parts: clips }
    const own = ownTransformer(base, change.merge, scales, precision)
    return { adapted: adaptOwn(base, own, prompt), parts: [own, ...clips] }
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

  async function dropSet() {
    await set?.value.release()
    set = undefined
  }

  /** Asking for the same files again reads nothing. */
  async function selectSet(precision: Precision, files: readonly LoraFile[]): Promise<LoraSet> {
    const key = [precision, ...files.map(identity)].join('\n')
    if (set?.key === key) return set.value
    await dropSet()
    const value = await openLoraSet(parts, precision, files, { ...settings, changesInPlace })
    set = { key, value }
    return value
  }

  return {
    bases: { bf16: bases.bf16.part, fp8: bases.fp8.part },
    async select(precision, loras) {
      const files = loras.filter(({ scale }) => scale !== 0)
      if (files.length === 0) return adaptBase(bases[precision], unchanged, basePrompt)
      const key = [precision, ...files.map((file) => `${identity(file)} ${file.scale}`)].join('\n')
      if (merged?.key === key) return merged.value.adapted
      const lorasOfSet = await selectSet(precision, files)
      // The old set goes first: two sets of a large model would not fit.
      await dropMerged()
      const value = mergeNetworks(
        precision,
        lorasOfSet,
        files.map(({ scale }) => scale),
      )
      merged = { key, value }
      return value.adapted
    },
    async release() {
      await dropMerged()
      await dropSet()
      await room.release([bases.bf16.part, bases.fp8.part, clip])
    },
  }
}

/** Tells files apart without reading them: a file that changed is another file. */
function identity({ path, digest }: LoraSource): string {
  if (digest !== undefined) return digest
  const stats = statSync(path, { throwIfNoEntry: false })
  if (!stats)
    throw new FluxdError('lora_invalid', `${path}: expected a LoRA file but nothing is there`)
  return `${path} ${stats.ino} ${stats.size} ${stats.mtimeMs}`
}
