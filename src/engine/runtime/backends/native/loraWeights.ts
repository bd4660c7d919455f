/**
 * A set of weights on a device, and the book of what it is changed by. The device has room for two
 * sets of factors: those in use, and beside them those that were staged or were in use before.
 */

import { createMutex } from '../../../../async/mutex.js'
import type { SharedWeight } from '../../onnx/graph.js'
import { type Adaptation, type LowRankChanges, unchanged } from '../backend.js'
import type { LowRankChange, WeightSet } from './addon.js'

export type AdaptableSet = Adaptation & {
  /** Sessions keep the weights until they are released themselves. */
  readonly release: () => Promise<void>
}

/**
 * The set that `weights` were uploaded to; changes of other weights are none of its concern. Calls
 * wait for each other: staging is done on a thread of its own, so the order of calls to the device
 * says nothing.
 */
export function createAdaptableSet(set: WeightSet, weights: readonly SharedWeight[]): AdaptableSet {
  const inTurn = createMutex()
  // Undefined while they change and after a failure: then nobody knows.
  let current: LowRankChanges | undefined = unchanged
  let beside: LowRankChanges | undefined

  const listOwn = (changes: LowRankChanges) =>
    weights.flatMap((weight) => changesOf(weight, changes))

  async function adapt(changes: LowRankChanges) {
    if (current === changes) return
    const before = current
    current = undefined
    if (beside === changes) await exchange(before)
    else if (before && haveSameFactors(before, changes))
      await set.rescale(listOwn(changes).map(({ scale }) => scale))
    else await set.merge(listOwn(changes))
    current = changes
  }

  async function exchange(before: LowRankChanges | undefined) {
    beside = undefined
    await set.swap()
    beside = before
  }

  async function stage(changes: LowRankChanges) {
    const isThere = beside === changes || (current && haveSameFactors(current, changes))
    if (isThere) return
    beside = undefined
    await set.stage(listOwn(changes))
    beside = changes
  }

  return {
    adapt: (changes) => inTurn(() => adapt(changes)),
    stage: (changes) => inTurn(() => stage(changes)),
    release: () => inTurn(() => set.release()),
  }
}

/** Whether they differ in scale at most: then the device has the factors already. */
const haveSameFactors = (one: LowRankChanges, other: LowRankChanges) =>
  one.size === other.size &&
  [...other].every(([name, { up, down }]) => {
    const known = one.get(name)
    return known?.up === up && known.down === down
  })

/** The changes of a weight's parts, by the rows where they lie. */
function changesOf({ name, parts }: SharedWeight, changes: LowRankChanges) {
  let end = 0
  return parts.flatMap((part) => {
    const rows = part.shape[0]!
    end += rows
    const change = changes.get(part.name)
    return change ? [{ name, begin: end - rows, rows, ...change } satisfies LowRankChange] : []
  })
}
