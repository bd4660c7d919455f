/**
 * The sets of LoRAs whose files have been read: the one in use and, beside it as on a device, the
 * one that was prepared or was in use before that.
 */
import { statSync } from 'node:fs'
import { FluxdError } from '../../errors.js'
import type { LoraFile, Precision } from '../../plan/plan.js'
import type { LoraSet } from './loraSet.js'

export type LoraSets = {
  /** The set of these files; where it is here already, whatever its scales, nothing is read. */
  readonly use: OpenLoraSet
  /** The same for later: the set in use stays where it is. */
  readonly prepare: OpenLoraSet
  readonly release: () => Promise<void>
}

export type OpenLoraSet = (precision: Precision, files: readonly LoraFile[]) => Promise<LoraSet>

type Place = 'current' | 'beside'
type Held = { readonly key: string; readonly set: LoraSet }

/** Nothing yet; `open` reads files. */
export function createLoraSets(open: OpenLoraSet): LoraSets {
  let held: { [place in Place]?: Held } = {}

  async function drop(place: Place) {
    await held[place]?.set.release()
    delete held[place]
  }

  /** What was there goes first: it may be as large. */
  async function replace(place: Place, key: string, opening: () => Promise<LoraSet>) {
    await drop(place)
    const set = await opening()
    held[place] = { key, set }
    return set
  }

  return {
    async use(precision, files) {
      const key = keyOf(precision, files)
      const { current, beside } = held
      if (beside?.key === key) held = { current: beside, ...(current && { beside: current }) }
      if (held.current?.key === key) return held.current.set
      return replace('current', key, () => open(precision, files))
    },
    async prepare(precision, files) {
      const key = keyOf(precision, files)
      const known = [held.current, held.beside].find((each) => each?.key === key)
      return known?.set ?? replace('beside', key, () => open(precision, files))
    },
    async release() {
      await drop('current')
      await drop('beside')
    },
  }
}

const keyOf = (precision: Precision, files: readonly LoraFile[]) =>
  [precision, ...files.map(identity)].join('\n')

/** Tells files apart without reading them: a file that changed is another file. */
export function identity({ path, digest }: Pick<LoraFile, 'path' | 'digest'>): string {
  if (digest !== undefined) return digest
  const stats = statSync(path, { throwIfNoEntry: false })
  if (!stats)
    throw new FluxdError('lora_invalid', `${path}: expected a LoRA file but nothing is there`)
  return `${path} ${stats.ino} ${stats.size} ${stats.mtimeMs}`
}
