/**
 * The networks of a variant at a precision, with LoRAs merged in: in place where a transformer's
 * weights can be changed; else sessions hold merged weights, and another set of LoRAs means other
 * sessions. Either way every merge starts from the checkpoint's own tensors, whatever ran before.
 * The bases stay loaded, and so does the set that was used last.
 */
import { statSync } from 'node:fs'
import { FluxdError } from '../errors.js'
import type { LoraFile, LoraSource, Precision } from '../plan/plan.js'
import { type LowRankChanges, unchanged } from '../runtime/backend.js'
import type { Session } from '../runtime/session.js'
import {
  type AdaptedParts,
  type LoraSet,
  type MergedParts,
  type MergeSettings,
  openLoraSet,
} from './merging.js'
import { createPromptEncoder, type PromptEncoder, type TextEncoder } from './prompt.js'
import type { Transformer } from './transformer.js'

/** The networks that a LoRA may change. */
export type Adapted = { readonly transformer: Transformer; readonly prompt: PromptEncoder }

/** How the networks are loaded. T5 belongs to the caller: no LoRA changes it. */
export type Networks = {
  readonly loadTransformer: (
    component: AdaptedParts['transformer'],
    precision: Precision,
  ) => Promise<Transformer>
  readonly loadClip: (component: AdaptedParts['clip']) => Promise<TextEncoder>
  readonly t5: TextEncoder
}

export type AdapterSettings = MergeSettings & {
  /** Whether there is memory for the base at more than one precision. */
  readonly keepsBases: boolean
}

export type Adapters = {
  /**
   * The networks with `loras` merged in, each at its scale; LoRAs of scale 0 count as absent.
   * Throws `lora_invalid` when a file is none or is made for another model.
   */
  readonly select: (precision: Precision, loras: readonly LoraFile[]) => Promise<Adapted>
  readonly busySeconds: () => number
  readonly release: () => Promise<void>
}

/** What is loaded, and under which name it can be had again. */
type Held<T> = { readonly key: string; readonly value: T }

type MergedNetworks = {
  /** The networks, with all weights as they are to be. */
  readonly use: () => Promise<Adapted>
  /** What was loaded for them alone. */
  readonly sessions: readonly Session[]
}

/** Loads the base in bf16; the rest is loaded when it is first asked for. */
export async function createAdapters(
  parts: AdaptedParts,
  networks: Networks,
  settings: AdapterSettings,
): Promise<Adapters> {
  const bases = new Map<Precision, Transformer>()
  const clip = await networks.loadClip(parts.clip)
  let set: Held<LoraSet> | undefined
  let merged: Held<MergedNetworks> | undefined
  let retiredSeconds = 0

  async function retire(sessions: readonly Session[]) {
    for (const session of sessions) {
      retiredSeconds += session.busySeconds()
      await session.release()
    }
  }

  async function selectBase(precision: Precision): Promise<Transformer> {
    const present = bases.get(precision)
    if (present) return present
    if (!settings.keepsBases) await dropBases()
    const transformer = await networks.loadTransformer(parts.transformer, precision)
    bases.set(precision, transformer)
    return transformer
  }

  async function dropBases() {
    for (const { sessions } of bases.values()) await retire(sessions)
    bases.clear()
  }

  async function dropMerged() {
    const sessions = merged?.value.sessions ?? []
    merged = undefined
    await retire(sessions)
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

  async function selectChanged(precision: Precision, changes: LowRankChanges) {
    const transformer = await selectBase(precision)
    await transformer.adapt?.(changes)
    return transformer
  }

  /** A transformer of its own shares with the bases all that is not merged. */
  async function restoreBases() {
    for (const { adapt } of bases.values()) await adapt?.(unchanged)
  }

  async function loadMerged(precision: Precision, own: MergedParts): Promise<MergedNetworks> {
    const { changes } = own
    try {
      const transformer =
        own.transformer === parts.transformer
          ? undefined
          : await networks.loadTransformer(own.transformer, precision)
      const ownClip = own.clip === parts.clip ? undefined : await networks.loadClip(own.clip)
      const prompt = ownClip ? createPromptEncoder(ownClip, networks.t5) : basePrompt
      const sessions = [...(transformer?.sessions ?? []), ...(ownClip?.sessions ?? [])]
      if (!transformer)
        return {
          use: async () => ({ transformer: await selectChanged(precision, changes), prompt }),
          sessions,
        }
      const adapted = { transformer, prompt }
      return { use: () => restoreBases().then(() => adapted), sessions }
    } finally {
      own.release()
    }
  }

  const basePrompt = createPromptEncoder(clip, networks.t5)
  const changesInPlace = (await selectBase('bf16')).adapt !== undefined
  return {
    async select(precision, loras) {
      const files = loras.filter(({ scale }) => scale !== 0)
      if (files.length === 0)
        return { transformer: await selectChanged(precision, unchanged), prompt: basePrompt }
      const key = [precision, ...files.map((file) => `${identity(file)} ${file.scale}`)].join('\n')
      if (merged?.key === key) return merged.value.use()
      const lorasOfSet = await selectSet(precision, files)
      const own = await lorasOfSet.merge(files.map(({ scale }) => scale))
      // The old set goes first: two sets of a large model would not fit.
      await dropMerged()
      const value = await loadMerged(precision, own)
      merged = { key, value }
      return value.use()
    },
    busySeconds: () =>
      [...bases.values(), clip, ...(merged ? [merged.value] : [])]
        .flatMap(({ sessions }) => sessions)
        .reduce((sum, session) => sum + session.busySeconds(), retiredSeconds),
    async release() {
      await dropMerged()
      await dropSet()
      await dropBases()
      await retire(clip.sessions)
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
