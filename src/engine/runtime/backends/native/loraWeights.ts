/**
 * The weights of a device's weight set, and the ledger of the LoRAs in them. The device holds the
 * factors of two sets of LoRAs: the active one, and one that was staged or active before.
 */

import { createMutex } from '../../../../async/mutex.js'
import type { SharedWeight } from '../../onnx/graph.js'
import { type LoraWeights, type LowRankChanges, unchanged } from '../backend.js'
import type { LowRankChange, WeightSet } from './addon.js'

/** What the device holds of a set of LoRAs. */
type Entry = Pick<LowRankChanges, 'key' | 'files'>

export type ReleasableLoraWeights = LoraWeights & {
  /** Sessions keep the weights until they are released themselves. */
  readonly release: () => Promise<void>
}

/**
 * The ledger of `set`, to which `weights` were uploaded; changes of other weights are left to other
 * sets. Calls wait for each other: the addon stages on a thread of its own, so that the order of
 * calls to it says nothing. An entry is written only after the addon's call has succeeded.
 */
export function createLoraWeights(
  set: WeightSet,
  weights: readonly SharedWeight[],
): ReleasableLoraWeights {
  const inTurn = createMutex()
  let active: Entry | undefined = unchanged
  let staged: Entry | undefined

  const listOwn = ({ matrices }: LowRankChanges) =>
    weights.flatMap((weight) => changesOf(weight, matrices))

  async function activate(changes: LowRankChanges) {
    if (active?.key === changes.key) return
    const before = active
    active = undefined
    if (staged?.key === changes.key) await swap(before)
    else if (before?.files === changes.files)
      await set.rescale(listOwn(changes).map(({ scale }) => scale))
    else await set.merge(listOwn(changes))
    active = entryOf(changes)
  }

  async function swap(before: Entry | undefined) {
    staged = undefined
    await set.swap()
    staged = before
  }

  async function stage(changes: LowRankChanges) {
    if (staged?.key === changes.key || active?.files === changes.files) return
    staged = undefined
    await set.stage(listOwn(changes))
    staged = entryOf(changes)
  }

  return {
    active: () => active?.key,
    activate: (changes) => inTurn(() => activate(changes)),
    stage: (changes) => inTurn(() => stage(changes)),
    release: () => inTurn(() => set.release()),
  }
}

/** Without the factors, which would stay in the host's memory. */
const entryOf = ({ key, files }: LowRankChanges): Entry => ({ key, files })

/** The changes of a weight's parts, by the rows where they lie. */
function changesOf({ name, parts }: SharedWeight, matrices: LowRankChanges['matrices']) {
  let end = 0
  return parts.flatMap((part) => {
    const rows = part.shape[0]!
    end += rows
    const change = matrices.get(part.name)
    return change ? [{ name, begin: end - rows, rows, ...change } satisfies LowRankChange] : []
  })
}
