/**
 * What every adapter of the store must do: each operation of the port, and each race that can be forced. An
 * adapter's test calls it with how to open that adapter's store, and how to open the same data again.
 */
import { beforeEach, describe, expect, onTestFinished, test, vi } from 'vitest'
import { addOutput, log, measure, start, succeed } from '../../src/predictions/prediction.js'
import type { Claim, ClaimedPrediction } from '../../src/store/predictionStore.js'
import type { Signal } from '../../src/store/signals.js'
import type { Store } from '../../src/store/store.js'
import { admissionOf, describePrediction } from './admissions.js'

export type StoreUnderTest = {
  readonly store: Store
  /** Another process on the same data, after this one has ended. */
  readonly reopen: () => Store
  readonly close: () => void
}

const file = { index: 0, name: 'out-0.webp', mimeType: 'image/webp', size: 1, fileId: 'f' }

export function describeStoreContract(name: string, open: () => StoreUnderTest): void {
  describe(`the ${name} store`, () => {
    let opened: StoreUnderTest
    let { predictions, deliveries, signals } = {} as Store

    beforeEach(() => {
      opened = open()
      ;({ predictions, deliveries, signals } = opened.store)
      onTestFinished(opened.close)
    })

    const admit = (id: string, changes: Parameters<typeof admissionOf>[1] = {}) =>
      predictions.admit(admissionOf(id, changes))

    const claim = (executor = 'a', changes: { resident?: string; above?: number } = {}) =>
      predictions.claim({ executor, patienceMs: 0, ...changes })

    const claimOne = async (executor = 'a') => (await claim(executor))!

    async function run(held: ClaimedPrediction): Promise<Claim> {
      expect(await predictions.begin(held.claim, start(held.prediction, ''))).toBe(true)
      return held.claim
    }

    describe('an admission', () => {
      test('comes back as it went in', async () => {
        const origin = {
          deployment: 'mine',
          keyId: 'key',
          deadline: new Date('2026-01-01T01:00:00Z'),
          sentCreatedAt: 'yesterday',
          webhook: { url: 'http://a.example', events: ['completed' as const] },
          traceparent: '00-1-2-01',
        }
        expect(await admit('a', { prediction: origin })).toEqual({ kind: 'admitted' })
        expect(await predictions.find('a')).toEqual(describePrediction('a', origin))
        expect(await predictions.findByStreamToken('token-a')).toMatchObject({ id: 'a' })
        expect(await predictions.find('b')).toBeUndefined()
      })

      test('with a used idempotency key is the same prediction, or a conflict', async () => {
        const idempotency = { key: 'k', bodyDigest: 'd' }
        await admit('a', { idempotency })
        expect(await admit('b', { idempotency })).toEqual({ kind: 'repeated', id: 'a' })
        const other = { idempotency: { key: 'k', bodyDigest: 'e' } }
        expect(await admit('c', other)).toEqual({ kind: 'conflict', field: 'idempotencyKey' })
        const stranger = { ...other, prediction: { keyId: 'another' } }
        expect(await admit('d', stranger)).toEqual({ kind: 'admitted' })
      })

      test('of one key in one turn are one prediction', async () => {
        const idempotency = { key: 'k', bodyDigest: 'd' }
        const outcomes = await Promise.all(['a', 'b', 'c'].map((id) => admit(id, { idempotency })))
        expect(outcomes.map(({ kind }) => kind)).toEqual(['admitted', 'repeated', 'repeated'])
        expect(await predictions.counts()).toEqual({ waiting: 1, running: 0 })
      })

      test('of a known id is a conflict', async () => {
        await admit('a')
        expect(await admit('a')).toEqual({ kind: 'conflict', field: 'id' })
      })

      test('is refused when the queue is full, counting those of the same turn', async () => {
        const outcomes = await Promise.all(
          ['a', 'b', 'c'].map((id) => admit(id, { maxWaiting: 2 })),
        )
        expect(outcomes.map(({ kind }) => kind)).toEqual(['admitted', 'admitted', 'full'])
        await run(await claimOne())
        expect(await admit('d', { maxWaiting: 2 })).toEqual({ kind: 'admitted' })
      })

      test('that must not wait is refused while another one waits or runs', async () => {
        const unlessBusy = true
        expect(await admit('a', { unlessBusy })).toEqual({ kind: 'admitted' })
        expect(await admit('b', { unlessBusy })).toEqual({ kind: 'busy' })
        const claimed = await run(await claimOne())
        expect(await admit('b', { unlessBusy })).toEqual({ kind: 'busy' })
        await predictions.settle(claimed, succeed(start(describePrediction('a'), '')))
        expect(await admit('b', { unlessBusy })).toEqual({ kind: 'admitted' })
      })

      test('is there for the next process', async () => {
        await admit('a')
        const next = opened.reopen()
        expect(await next.predictions.find('a')).toMatchObject({ status: 'starting' })
      })
    })

    describe('a claim', () => {
      test('has the whole request, and what it costs', async () => {
        const image = `data:image/png;base64,${'A'.repeat(100_000)}`
        const loras = [{ role: 'extra', name: 'b', source: 'a/b', scale: 0.5 }] as const
        const admission = admissionOf('a', { prediction: { input: { prompt: 'p', image } } })
        await predictions.admit({ ...admission, work: { ...admission.work, loras }, priority: 3 })
        expect(await claimOne()).toMatchObject({
          claim: { id: 'a', executor: 'a', number: 1 },
          prediction: { id: 'a', input: { image } },
          work: { input: { image, seed: 5 }, loras },
          priority: 3,
          cost: admission.cost,
        })
      })

      test('is given once: two executors never hold the same prediction', async () => {
        const ids = Array.from({ length: 20 }, (_, i) => `p${i}`)
        await Promise.all(ids.map((id) => admit(id)))
        const claimed = await Promise.all(ids.map((_, i) => claimOne(i % 2 ? 'a' : 'b')))
        expect(new Set(claimed.map((held) => held.claim.id)).size).toBe(20)
        expect(await claim()).toBeUndefined()
      })

      test('goes by priority, then by turns of the owners, then by age', async () => {
        for (const id of ['a1', 'a2', 'a3']) await admit(id, { prediction: { keyId: 'a' } })
        await admit('b1', { prediction: { keyId: 'b' } })
        await admit('urgent', { priority: 1 })
        const order: string[] = []
        for (let n = 0; n < 5; n++) order.push((await claimOne()).claim.id)
        expect(order).toEqual(['urgent', 'a1', 'b1', 'a2', 'a3'])
      })

      test('may ask for what is more urgent only', async () => {
        await admit('a')
        expect(await claim('a', { above: 0 })).toBeUndefined()
        await admit('b', { priority: 1 })
        expect((await claim('a', { above: 0 }))?.claim.id).toBe('b')
      })

      test('of a row that cannot be read sets it aside and takes the next one', async () => {
        const broken = admissionOf('a')
        const input = { ...broken.work.input, num_outputs: 'many' } as never
        await predictions.admit({ ...broken, work: { input, loras: [] } })
        await admit('b')
        expect((await claimOne()).claim.id).toBe('b')
        const { status, error } = (await predictions.find('a'))!
        expect([status, error]).toEqual([
          'failed',
          expect.stringContaining('The stored request cannot be read'),
        ])
      })
    })

    describe('LoRA affinity', () => {
      const patient = (resident: string) =>
        predictions.claim({ executor: 'a', resident, patienceMs: 60_000 })

      test('takes the first of the set that is in place, and the head when there is none', async () => {
        await admit('a', { loraSet: 'x' })
        await admit('b', { loraSet: 'y' })
        expect((await patient('y'))?.claim.id).toBe('b')
        expect((await patient('y'))?.claim.id).toBe('a')
      })

      test('never passes a higher priority, and looks 32 predictions far', async () => {
        await admit('urgent', { loraSet: 'x', priority: 1 })
        await admit('b', { loraSet: 'y' })
        expect((await patient('y'))?.claim.id).toBe('urgent')
        for (let n = 0; n < 31; n++) await admit(`x${n}`, { loraSet: 'x' })
        await admit('far', { loraSet: 'z' })
        expect((await patient('z'))?.claim.id).toBe('b')
        expect((await patient('z'))?.claim.id).toBe('far')
      })

      test('lets the head be overtaken for its patience only', async () => {
        vi.useFakeTimers({ toFake: ['Date'] })
        onTestFinished(() => void vi.useRealTimers())
        const next = () => predictions.claim({ executor: 'a', resident: 'y', patienceMs: 1000 })
        await admit('head', { loraSet: 'x' })
        for (const id of ['y1', 'y2', 'y3']) await admit(id, { loraSet: 'y' })
        expect((await next())?.claim.id).toBe('y1')
        vi.advanceTimersByTime(999)
        expect((await next())?.claim.id).toBe('y2')
        vi.advanceTimersByTime(1)
        expect((await next())?.claim.id).toBe('head')
      })
    })

    describe('a holder', () => {
      test('begins, checkpoints and settles', async () => {
        await admit('a')
        const held = await claimOne()
        const begun = start(held.prediction, 'line\n')
        expect(await predictions.begin(held.claim, begun)).toBe(true)
        expect(await predictions.find('a')).toEqual(begun)
        const further = log(begun, 'more')
        expect(await predictions.checkpoint(held.claim, further)).toBe(true)
        expect(await predictions.find('a')).toEqual(further)
        const done = succeed(measure(addOutput(further, file), { loraSwitchMs: 3 }))
        expect(await predictions.settle(held.claim, done)).toBe(true)
        expect(await predictions.find('a')).toEqual(done)
        expect(await predictions.counts()).toEqual({ waiting: 0, running: 0 })
      })

      test('whose claim is stale changes nothing', async () => {
        await admit('a')
        const first = await claimOne()
        await predictions.release(first.claim)
        const second = await claimOne('b')
        expect(second.claim.number).toBeGreaterThan(first.claim.number)
        const begun = start(first.prediction, 'stale\n')
        expect(await predictions.begin(first.claim, begun)).toBe(false)
        expect(await predictions.checkpoint(first.claim, begun)).toBe(false)
        expect(await predictions.settle(first.claim, succeed(begun))).toBe(false)
        await predictions.release(first.claim)
        expect(await predictions.find('a')).toEqual(describePrediction('a'))
        expect(await predictions.begin(second.claim, start(second.prediction, ''))).toBe(true)
      })

      test('settles once', async () => {
        await admit('a')
        const claimed = await run(await claimOne())
        const done = succeed(start(describePrediction('a'), ''))
        const outcomes = await Promise.all([
          predictions.settle(claimed, done),
          predictions.settle(claimed, done),
        ])
        expect(outcomes).toEqual([true, false])
      })

      test('that releases puts its prediction before all others of its priority', async () => {
        for (const id of ['a1', 'a2', 'a3']) await admit(id, { prediction: { keyId: 'a' } })
        const first = await claimOne()
        await admit('b1', { prediction: { keyId: 'b' } })
        await claimOne()
        await predictions.release(first.claim)
        expect((await claimOne()).claim.id).toBe('a1')
      })

      test('loses to another executor what it holds and does not run', async () => {
        await Promise.all(['a', 'b'].map((id) => admit(id)))
        const [one, two] = [await claimOne(), await claimOne()]
        await run(one)
        expect(await predictions.takeOver(one.claim, 'b')).toBeUndefined()
        const taken = await predictions.takeOver(two.claim, 'b')
        expect(taken).toEqual({ id: 'b', executor: 'b', number: 2 })
        expect(await predictions.takeOver(two.claim, 'c')).toBeUndefined()
        expect(await predictions.begin(two.claim, start(two.prediction, ''))).toBe(false)
        expect(await predictions.begin(taken!, start(two.prediction, ''))).toBe(true)
      })
    })

    describe('a cancel', () => {
      test('ends what waits and what runs, and is final for the holder', async () => {
        await Promise.all(['a', 'b'].map((id) => admit(id)))
        const claimed = await run(await claimOne())
        expect(await predictions.cancel('b')).toMatchObject({
          isCanceled: true,
          prediction: { status: 'canceled' },
        })
        const progress = { logs: 'so far\n', metrics: {}, startedAt: new Date() }
        expect(await predictions.cancel('a', progress)).toMatchObject({
          isCanceled: true,
          prediction: { status: 'canceled', logs: 'so far\n' },
        })
        const done = succeed(start(describePrediction('a'), ''))
        expect(await predictions.settle(claimed, done)).toBe(false)
        expect(await predictions.find('a')).toMatchObject({ status: 'canceled', logs: 'so far\n' })
        expect(await claim()).toBeUndefined()
      })

      test('of one that is over or unknown changes nothing', async () => {
        await admit('a')
        const done = succeed(start(describePrediction('a'), ''))
        await predictions.settle(await run(await claimOne()), done)
        expect(await predictions.cancel('a')).toEqual({ isCanceled: false, prediction: done })
        expect(await predictions.cancel('b')).toEqual({ isCanceled: false, prediction: undefined })
      })

      test('and the end in one turn leave one terminal state and one delivery', async () => {
        const webhook = { url: 'http://a.example', events: ['completed' as const] }
        await admit('a', { prediction: { webhook } })
        const claimed = await run(await claimOne())
        const done = succeed(start(describePrediction('a', { webhook }), ''))
        const [settled, canceled] = await Promise.all([
          predictions.settle(claimed, done),
          predictions.cancel('a'),
        ])
        expect([settled, canceled.isCanceled]).toEqual([true, false])
        expect(await deliveries.listOfPrediction('a')).toHaveLength(1)
      })
    })

    describe('a deadline', () => {
      test('cancels what waits and what runs, and leaves the others', async () => {
        const deadline = new Date(Date.now() + 1000)
        await Promise.all(['a', 'b'].map((id) => admit(id, { prediction: { deadline } })))
        await admit('c')
        await run(await claimOne())
        expect(await predictions.nextDeadline()).toEqual(deadline)
        expect(await predictions.expire(new Date(deadline.getTime() - 1))).toEqual([])
        const expired = await predictions.expire(deadline)
        expect(expired.map(({ id, status }) => [id, status]).sort()).toEqual([
          ['a', 'canceled'],
          ['b', 'canceled'],
        ])
        expect(await predictions.nextDeadline()).toBeUndefined()
        expect(await predictions.find('c')).toMatchObject({ status: 'starting' })
      })
    })

    describe('the position', () => {
      test('counts what comes before, and adds up what it costs', async () => {
        const cost = (tokens: number) => ({ kind: 'dev bf16' as const, tokens, stepTokens: tokens })
        await admit('a', { cost: cost(1) })
        await admit('b', { cost: cost(10) })
        await admit('c', { cost: { kind: 'schnell fp8', tokens: 100, stepTokens: 400 } })
        expect(await predictions.queuePosition('c')).toEqual({
          before: 2,
          cost: {
            'dev bf16': { tokens: 11, stepTokens: 11 },
            'schnell fp8': { tokens: 100, stepTokens: 400 },
          },
          running: [],
        })
        const held = await claimOne()
        // Claimed ahead it still waits.
        expect(await predictions.queuePosition('b')).toMatchObject({ before: 1 })
        await run(held)
        const position = await predictions.queuePosition('a')
        expect(position?.before).toBeUndefined()
        expect(position?.running).toMatchObject([{ id: 'a', cost: cost(1) }])
        expect(await predictions.queuePosition('b')).toMatchObject({ before: 0 })
        expect(await predictions.queuePosition('unknown')).toBeUndefined()
      })

      test('is before those of a lower priority and of later turns', async () => {
        for (const id of ['a1', 'a2', 'a3']) await admit(id, { prediction: { keyId: 'a' } })
        await admit('b1', { prediction: { keyId: 'b' } })
        await admit('urgent', { priority: 1 })
        const before = async (id: string) => (await predictions.queuePosition(id))?.before
        expect(await Promise.all(['urgent', 'a1', 'b1', 'a2', 'a3'].map(before))).toEqual([
          0, 1, 2, 3, 4,
        ])
      })
    })

    describe('the next process', () => {
      test('finds what was held waiting again, in its place and state', async () => {
        for (const id of ['a', 'b', 'c']) await admit(id)
        await run(await claimOne())
        await claimOne()
        const next = opened.reopen().predictions
        expect(await next.recover(20)).toEqual([])
        expect(await next.find('a')).toMatchObject({ status: 'processing' })
        const order: string[] = []
        for (let n = 0; n < 3; n++)
          order.push((await next.claim({ executor: 'z', patienceMs: 0 }))!.claim.id)
        expect(order).toEqual(['a', 'b', 'c'])
      })

      test('fails what was running at the end of too many', async () => {
        await admit('a', {
          prediction: { webhook: { url: 'http://a.example', events: ['completed'] } },
        })
        await run(await claimOne())
        for (let n = 0; n < 2; n++) expect(await predictions.recover(2)).toEqual([])
        const [failed] = await predictions.recover(2)
        expect(failed).toMatchObject({ id: 'a', status: 'failed' })
        expect(await predictions.find('a')).toMatchObject({
          status: 'failed',
          error: 'The server ended 2 times while it worked on this, and does not try again',
        })
        expect(await deliveries.listOfPrediction('a')).toHaveLength(1)
      })
    })

    describe('a delivery', () => {
      const webhook = { url: 'http://a.example', events: ['completed' as const] }

      test('of completed is there if and only if the state is, where one is asked for', async () => {
        await admit('a', { prediction: { webhook } })
        await admit('b', { prediction: { webhook: { ...webhook, events: ['start'] } } })
        expect(await deliveries.listPending(10)).toEqual([])
        await predictions.cancel('a')
        await predictions.cancel('b')
        expect(await deliveries.listPending(10)).toMatchObject([
          { predictionId: 'a', event: 'completed', attempts: 0 },
        ])
      })

      test('is due until it has arrived or is given up', async () => {
        await deliveries.addCompleted(describePrediction('a', { webhook }))
        const [{ id } = { id: '' }] = await deliveries.listPending(10)
        const until = new Date(Date.now() + 1000)
        await deliveries.record(id, { kind: 'postponed', until, error: 'status 500' })
        expect(await deliveries.listPending(10)).toMatchObject([{ attempts: 1, dueAt: until }])
        await deliveries.record(id, { kind: 'arrived', at: until })
        expect(await deliveries.listPending(10)).toEqual([])
        expect(await deliveries.listOfPrediction('a')).toMatchObject([
          { attempts: 2, settledAt: until, error: undefined },
        ])
        await deliveries.removeSettled(new Date(until.getTime() + 1))
        expect(await deliveries.listOfPrediction('a')).toEqual([])
      })
    })

    test('signals say that there is work, and what is over', async () => {
      const seen: Signal[] = []
      onTestFinished(signals.listen((signal) => seen.push(signal)))
      await admit('a')
      await vi.waitFor(() => expect(seen).toEqual([{ kind: 'work' }]))
      await predictions.cancel('a')
      await vi.waitFor(() => expect(seen[1]).toEqual({ kind: 'ended', id: 'a' }))
    })

    test('secrets are drawn once, keys and deployments are found by name', async () => {
      const { secrets, apiKeys, deployments, runs } = opened.store
      const [one, two] = await Promise.all([secrets.read('webhooks'), secrets.read('webhooks')])
      expect(one).toEqual(two)
      const key = {
        id: 'k',
        name: 'mine',
        hash: Buffer.alloc(32, 1),
        scopes: ['predict'] as const,
        priority: 1,
        ratePerMinute: 5,
        createdAt: new Date(),
      }
      await apiKeys.insert(key)
      expect(await apiKeys.find('k')).toEqual(key)
      expect([await apiKeys.count(), await apiKeys.remove('mine')]).toEqual([1, true])
      const deployment = {
        name: 'd',
        number: 1,
        model: 'a/b',
        version: 'v',
        hardware: 'cpu',
        minInstances: 0,
        maxInstances: 1,
        createdAt: new Date(),
      }
      expect(await deployments.insert(deployment)).toBe(true)
      expect(await deployments.insert(deployment)).toBe(false)
      expect(await deployments.find('d')).toEqual(deployment)
      await admit('a')
      expect(await runs.count()).toEqual(new Map([['fluxd/flux', 1]]))
    })
  })
}
