/**
 * The networks of a variant with LoRAs merged in. Sessions hold merged weights, so another set of
 * LoRAs means other sessions; they are always built from the checkpoint's own tensors, whatever
 * ran before. The base stays loaded, and so does the set that was used last.
 */
import { statSync } from 'node:fs'
import type { Checkpoint } from '../checkpoint/checkpoint.js'
import { FluxdError } from '../errors.js'
import { openLora } from '../lora/lora.js'
import { createMerger, type MergedTensors, type Merger } from '../lora/merge.js'
import type { LoraFile } from '../plan/plan.js'
import type { Session } from '../runtime/session.js'
import { withMerged } from '../runtime/weights.js'
import type { PromptEncoder } from './prompt.js'
import type { Transformer } from './transformer.js'

/** The networks that a LoRA may change. */
export type Adapted = { readonly transformer: Transformer; readonly prompt: PromptEncoder }

/** Loads the networks over these weights. */
export type LoadNetworks = (parts: Pick<Checkpoint, 'transformer' | 'text'>) => Promise<Adapted>

export type Adapters = {
  /**
   * The networks with `loras` merged in, each at its scale; LoRAs of scale 0 count as absent.
   * Throws `lora_invalid` when a file is none or is made for another model.
   */
  readonly select: (loras: readonly LoraFile[]) => Promise<Adapted>
  readonly busySeconds: () => number
  readonly release: () => Promise<void>
}

type Held<T> = { readonly key: string; readonly value: T; readonly release: () => Promise<void> }

export async function createAdapters(
  checkpoint: Pick<Checkpoint, 'transformer' | 'text'>,
  load: LoadNetworks,
  threads: number,
): Promise<Adapters> {
  const base = await load(checkpoint)
  let mergers: Held<Mergers> | undefined
  let merged: Held<Adapted> | undefined
  let retiredSeconds = 0

  async function dropMerged() {
    if (merged) retiredSeconds += busySeconds(merged.value)
    await merged?.release()
    merged = undefined
  }

  /** The mergers of these files; asking for the same files again reads nothing. */
  async function selectMergers(files: readonly LoraFile[]): Promise<Mergers> {
    const key = files.map(identity).join('\n')
    if (mergers?.key === key) return mergers.value
    await mergers?.release()
    mergers = undefined
    const value = await openMergers(checkpoint, files, threads)
    mergers = { key, value, release: value.release }
    return value
  }

  return {
    async select(loras) {
      const files = loras.filter(({ scale }) => scale !== 0)
      if (files.length === 0) return base
      const key = files.map((file) => `${identity(file)} ${file.scale}`).join('\n')
      if (merged?.key === key) return merged.value
      const tensors = await (await selectMergers(files)).merge(files.map(({ scale }) => scale))
      // The old set goes first: two sets of a large model would not fit.
      await dropMerged()
      const value = await load({
        transformer: {
          ...checkpoint.transformer,
          weights: withMerged(checkpoint.transformer.weights, tensors.transformer),
        },
        text: {
          ...checkpoint.text,
          clip: {
            ...checkpoint.text.clip,
            weights: withMerged(checkpoint.text.clip.weights, tensors.clip),
          },
        },
      })
      merged = { key, value, release: () => releaseAll(value) }
      return value
    },
    busySeconds: () =>
      busySeconds(base) + (merged ? busySeconds(merged.value) : 0) + retiredSeconds,
    async release() {
      await dropMerged()
      await mergers?.release()
      await releaseAll(base)
    },
  }
}

/** Tells files apart without reading them: a file that changed is another file. */
function identity({ path }: LoraFile): string {
  const stats = statSync(path, { throwIfNoEntry: false })
  if (!stats)
    throw new FluxdError('lora_invalid', `${path}: expected a LoRA file but nothing is there`)
  return `${path} ${stats.ino} ${stats.size} ${stats.mtimeMs}`
}

type Mergers = {
  readonly merge: (
    scales: readonly number[],
  ) => Promise<{ readonly transformer: MergedTensors; readonly clip: MergedTensors }>
  readonly release: () => Promise<void>
}

/** One merger per network; most LoRAs leave CLIP alone, whose merger is then empty. */
async function openMergers(
  { transformer, text: { clip } }: Pick<Checkpoint, 'transformer' | 'text'>,
  files: readonly LoraFile[],
  threads: number,
): Promise<Mergers> {
  const model = { transformer: transformer.params, clip: clip.params }
  const adapters = await Promise.all(files.map(({ path }) => openLora(path, model, threads)))
  const options = { rounding: 'float32', threads } as const
  const opened: Merger[] = []
  for (const { weights } of [transformer, clip])
    opened.push(await createMerger(weights.pristine, adapters, options))
  const [ofTransformer, ofClip] = opened as [Merger, Merger]
  return {
    merge: async (scales) => ({
      transformer: await ofTransformer.merge(scales),
      clip: await ofClip.merge(scales),
    }),
    release: async () => {
      for (const merger of opened) await merger.release()
    },
  }
}

const sessionsOf = ({ transformer, prompt }: Adapted): readonly Session[] => [
  ...transformer.sessions,
  ...prompt.sessions,
]

const busySeconds = (adapted: Adapted) =>
  sessionsOf(adapted).reduce((sum, session) => sum + session.busySeconds(), 0)

async function releaseAll(adapted: Adapted) {
  for (const session of sessionsOf(adapted)) await session.release()
}
