/** Random histories of a store's queue, compared with the model and with what fairness promises. */
import fc from 'fast-check'
import { describe, expect, test, vi } from 'vitest'
import type { Claim } from '../../src/store/predictionStore.js'
import type { Store } from '../../src/store/store.js'
import { admissionOf } from './admissions.js'
import type { StoreUnderTest } from './contract.js'
import { createQueueModel, type QueueModel } from './queueModel.js'

/** 10,000 in the full lane. */
const histories = Number(process.env['FLUXD_TEST_HISTORIES'] ?? 300)

const patienceMs = 1000

type Step =
  | {
      readonly kind: 'admit'
      readonly owner: string
      readonly priority: number
      readonly set: string
    }
  | { readonly kind: 'claim'; readonly resident: string }
  | { readonly kind: 'release' | 'settle' | 'cancel'; readonly pick: number }
  | { readonly kind: 'pass'; readonly ms: number }

const owner = fc.constantFrom('', 'a', 'b', 'c')
const set = fc.constantFrom('x', 'y', 'z')
const pick = fc.nat({ max: 1000 })

const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({
      kind: fc.constant('admit' as const),
      owner,
      priority: fc.constantFrom(0, 0, 0, 1, -1),
      set,
    }),
  },
  { weight: 4, arbitrary: fc.record({ kind: fc.constant('claim' as const), resident: set }) },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constantFrom('release' as const, 'settle' as const, 'cancel' as const),
      pick,
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ kind: fc.constant('pass' as const), ms: fc.constantFrom(1, 500, 2000) }),
  },
)

export function describeQueueProperties(name: string, open: () => StoreUnderTest): void {
  describe(`the queue of the ${name} store`, () => {
    test(`is that of the model in ${histories} random histories`, {
      timeout: 600_000,
    }, async () => {
      vi.useFakeTimers({ toFake: ['Date'] })
      const { store, close } = open()
      let run = 0
      try {
        await fc.assert(
          fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 40 }), (steps) =>
            compare(store, steps, `${run++}`),
          ),
          { numRuns: histories },
        )
      } finally {
        vi.useRealTimers()
        close()
      }
    })
  })
}

type History = {
  readonly store: Store
  readonly model: QueueModel
  readonly prefix: string
  /** What waits, and what is claimed. */
  readonly waiting: Set<string>
  readonly claims: Map<string, Claim>
  admitted: number
}

async function compare(store: Store, steps: readonly Step[], prefix: string): Promise<void> {
  const history: History = {
    store,
    model: createQueueModel(),
    prefix,
    waiting: new Set(),
    claims: new Map(),
    admitted: 0,
  }
  for (const one of steps) {
    await apply(one, history)
    await compareOrder(history)
  }
  // The next history begins with an empty queue.
  for (const id of [...history.waiting, ...history.claims.keys()])
    await store.predictions.cancel(id)
}

async function apply(one: Step, history: History): Promise<void> {
  const { store, model, waiting, claims } = history
  switch (one.kind) {
    case 'admit': {
      const id = `${history.prefix}-${history.admitted++}`
      const { owner: keyId, priority, set: loraSet } = one
      await store.predictions.admit(
        admissionOf(id, { priority, loraSet, prediction: keyId === '' ? {} : { keyId } }),
      )
      model.push({ id, owner: keyId, priority, loraSet })
      waiting.add(id)
      return
    }
    case 'claim': {
      const { resident } = one
      const claimed = await store.predictions.claim({ executor: 'e', resident, patienceMs })
      expect(claimed?.claim.id).toBe(model.claim(resident, patienceMs, Date.now()))
      if (!claimed) return
      waiting.delete(claimed.claim.id)
      claims.set(claimed.claim.id, claimed.claim)
      return
    }
    case 'pass':
      vi.advanceTimersByTime(one.ms)
      return
    default:
      return end(one.kind, one.pick, history)
  }
}

/** Gives back or ends one of those that are there to be given back or ended. */
async function end(
  kind: 'release' | 'settle' | 'cancel',
  index: number,
  { store, model, waiting, claims }: History,
): Promise<void> {
  const ids = kind === 'cancel' ? [...waiting, ...claims.keys()] : [...claims.keys()]
  const id = ids[index % Math.max(1, ids.length)]
  if (id === undefined) return
  const claim = claims.get(id)
  claims.delete(id)
  if (kind === 'release' && claim) {
    await store.predictions.release(claim)
    model.release(id)
    waiting.add(id)
    return
  }
  waiting.delete(id)
  model.remove(id)
  if (kind === 'cancel') await store.predictions.cancel(id)
  else if (claim) {
    const prediction = (await store.predictions.find(id))!
    const completedAt = new Date()
    await store.predictions.settle(claim, { ...prediction, status: 'succeeded', completedAt })
  }
}

/** The order of all that waits, as the positions say it. */
async function compareOrder({ store, model }: History): Promise<void> {
  const order = model.order()
  const before = await Promise.all(
    order.map(async (id) => (await store.predictions.queuePosition(id))?.before),
  )
  expect(before).toEqual(order.map((_, index) => index))
}
