import { existsSync } from 'node:fs'
import { join } from 'node:path'
import sharp from 'sharp'
import { describe, expect, test, vi } from 'vitest'
import { FluxdError } from '../../../src/errors.js'
import type { PredictionEvent } from '../../../src/predictions/eventLog.js'
import { startRetention } from '../../../src/server/predictions/retention.js'
import { createGate } from '../../gate.js'
import { lorasOf, openPredictions, request } from './testPredictions.js'

const never = new Promise<void>(() => {})
const death = new FluxdError('engine_died', 'The engine process was killed by SIGKILL')

describe('an admission', () => {
  test('is on disk when it is acknowledged', async () => {
    const { predictions, store } = await openPredictions({ fake: { gate: never } })
    const { id } = await predictions.create(request())
    expect(await store.predictions.find(id)).toMatchObject({ id })
    expect(await predictions.get(id)).toMatchObject({ id, status: 'starting', logs: '' })
  })

  test('draws a seed once, and the echo does not have it', async () => {
    const { predictions, engine } = await openPredictions({ fake: { failures: [death] } })
    const { id } = await predictions.create(request({}, { seed: undefined }))
    const { logs, input } = await predictions.waitUntilTerminal(id)
    const [first, second] = engine.plans.map(({ seed }) => seed)
    expect(second).toBe(first)
    expect(logs).toContain(`Using seed: ${first}\n`)
    expect(input['seed']).toBeUndefined()
  })

  test('with an Idempotency-Key that was used is the same prediction', async () => {
    const { predictions, engine } = await openPredictions()
    const idempotency = { key: 'k', bodyDigest: 'd' }
    const all = await Promise.all([1, 2, 3].map(() => predictions.create(request({ idempotency }))))
    await predictions.waitUntilTerminal(all[0]!.id)
    const later = await predictions.create(request({ idempotency }))
    expect(new Set([...all, later].map(({ id }) => id)).size).toBe(1)
    expect(later.status).toBe('succeeded')
    expect(engine.plans).toHaveLength(1)
  })

  test('with the key of another request is a conflict, unless it is another client’s', async () => {
    const { predictions } = await openPredictions()
    await predictions.create(request({ idempotency: { key: 'k', bodyDigest: 'd' } }))
    const other = { key: 'k', bodyDigest: 'e' }
    await expect(predictions.create(request({ idempotency: other }))).rejects.toMatchObject({
      code: 'conflict',
    })
    await predictions.create(request({ idempotency: other, keyId: 'another' }))
  })

  test('is refused when all places are taken, and a repeated one is not', async () => {
    const { predictions, engine } = await openPredictions({ fake: { gate: never }, maxQueue: 1 })
    await predictions.create(request())
    await vi.waitFor(() => expect(engine.plans).toHaveLength(1))
    const idempotency = { key: 'k', bodyDigest: 'd' }
    const { id } = await predictions.create(request({ idempotency }))
    await expect(predictions.create(request())).rejects.toMatchObject({
      code: 'queue_full',
      retryAfterSeconds: expect.any(Number),
    })
    expect((await predictions.create(request({ idempotency }))).id).toBe(id)
  })

  test('a hundred in one turn are all there', async () => {
    const { predictions } = await openPredictions({ fake: { gate: never } })
    const all = await Promise.all(Array.from({ length: 100 }, () => predictions.create(request())))
    expect(new Set(all.map(({ id }) => id)).size).toBe(100)
    expect((await predictions.list({ limit: 100 })).predictions).toHaveLength(100)
    const { waiting, running } = await predictions.counts()
    expect(waiting + running).toBe(100)
  })
})

describe('an engine that dies', () => {
  test('is given a second try with the same seed, and the log begins anew', async () => {
    const { predictions, engine, faults } = await openPredictions({ fake: { failures: [death] } })
    const { id } = await predictions.create(request())
    const prediction = await predictions.waitUntilTerminal(id)
    expect(prediction.status).toBe('succeeded')
    expect(engine.plans.map(({ seed }) => seed)).toEqual([7, 7])
    expect(prediction.logs.match(/Using seed: 7/g)).toHaveLength(1)
    expect(prediction.logs).toMatch(/^The engine process was killed .*; this is the second run\n/)
    expect(faults).toEqual([])
  })

  test('twice fails the prediction with a sentence', async () => {
    const { predictions, engine } = await openPredictions({ fake: { failures: [death, death] } })
    const { id } = await predictions.create(request())
    expect(await predictions.waitUntilTerminal(id)).toMatchObject({
      status: 'failed',
      error: 'Twice: The engine process was killed by SIGKILL',
    })
    expect(engine.plans).toHaveLength(2)
    const next = await predictions.create(request())
    expect(await predictions.waitUntilTerminal(next.id)).toMatchObject({ status: 'succeeded' })
  })
})

test('an engine that is stopped for good fails nothing: the next server goes on', async () => {
  const failure = new FluxdError('not_ready', 'The engine is stopped')
  const first = await openPredictions({ fake: { failure } })
  const ids = await Promise.all([1, 2].map(() => first.predictions.create(request())))
  await vi.waitFor(() => expect(first.faults).toEqual([failure]))
  expect(
    await Promise.all(ids.map(async ({ id }) => (await first.predictions.get(id))?.status)),
  ).toEqual(['processing', 'starting'])
  vi.spyOn(first.engine, 'status').mockReturnValue('stopped')
  await expect(first.predictions.create(request())).rejects.toMatchObject({ status: 503 })
  first.kill()
  const { predictions } = await openPredictions({ folder: first.folder })
  for (const { id } of ids)
    expect(await predictions.waitUntilTerminal(id)).toMatchObject({ status: 'succeeded' })
})

describe('a server that is killed', () => {
  test('leaves what it acknowledged to the next one, which runs it in order with the same seeds', async () => {
    const first = await openPredictions({ fake: { gate: never } })
    const ids: string[] = []
    for (const seed of [1, 2, 3]) {
      const { id } = await first.predictions.create(request({}, { seed }))
      ids.push(id)
    }
    await vi.waitFor(() => expect(first.engine.plans).toHaveLength(1))
    first.kill()

    const { predictions, engine } = await openPredictions({ folder: first.folder })
    // What ran stays `processing`: states never go back.
    expect(await Promise.all(ids.map(async (id) => (await predictions.get(id))?.status))).toEqual([
      'processing',
      'starting',
      'starting',
    ])
    for (const id of ids)
      expect(await predictions.waitUntilTerminal(id)).toMatchObject({ status: 'succeeded' })
    expect(engine.plans.map(({ seed }) => seed)).toEqual([1, 2, 3])
  })

  test('twenty times under the same prediction fails it', async () => {
    const opened = await openPredictions({ fake: { gate: never } })
    const { id } = await opened.predictions.create(request())
    await vi.waitFor(() => expect(opened.engine.plans).toHaveLength(1))
    opened.kill()
    const { folder } = opened
    for (let start = 1; start <= 20; start++) {
      const next = await openPredictions({ folder, fake: { gate: never } })
      await vi.waitFor(() => expect(next.engine.plans).toHaveLength(1))
      next.kill()
    }
    const events: string[] = []
    const onEvent = (_: unknown, kind: string) => void events.push(kind)
    const { predictions, engine } = await openPredictions({ folder, onEvent })
    await predictions.waitUntilTerminal(id)
    expect(await predictions.get(id)).toMatchObject({
      status: 'failed',
      error: 'The server ended 20 times while it worked on this, and does not try again',
    })
    expect([events, engine.plans]).toEqual([['completed'], []])
  })

  test('while the engine was not there yet had not begun, however often', async () => {
    const opened = await openPredictions({ fake: { ready: never } })
    const { id } = await opened.predictions.create(request())
    await new Promise((resolve) => setTimeout(resolve, 20))
    expect(await opened.predictions.get(id)).toMatchObject({ status: 'starting', logs: '' })
    opened.kill()
    const { folder } = opened
    for (let start = 1; start <= 21; start++)
      (await openPredictions({ folder, fake: { ready: never } })).kill()
    const { predictions } = await openPredictions({ folder })
    expect(await predictions.waitUntilTerminal(id)).toMatchObject({ status: 'succeeded' })
  })

  test('a stop is no cancel: the prediction runs again at the next start', async () => {
    const first = await openPredictions({ fake: { gate: never } })
    const { id } = await first.predictions.create(request())
    await vi.waitFor(() => expect(first.engine.plans).toHaveLength(1))
    const waiting = first.predictions.waitUntilTerminal(id)
    await first.predictions.stop()
    expect(await waiting).toMatchObject({ status: 'processing' })
    await expect(first.predictions.create(request())).rejects.toMatchObject({ code: 'draining' })
    first.kill()
    const { predictions } = await openPredictions({ folder: first.folder })
    expect(await predictions.waitUntilTerminal(id)).toMatchObject({ status: 'succeeded' })
  })
})

describe('a webhook’s event', () => {
  test('is stored if and only if the state is', async () => {
    let refusals = 1
    const { predictions, store } = await openPredictions({
      wrap: (opened) => ({
        ...opened,
        predictions: {
          ...opened.predictions,
          async settle(claim, prediction) {
            if (refusals-- > 0) throw new FluxdError('storage_full', 'full')
            return opened.predictions.settle(claim, prediction)
          },
        },
      }),
    })
    const webhook = { url: 'http://a.example', events: ['completed' as const] }
    const { id } = await predictions.create(request({ webhook }))
    await vi.waitFor(() => expect(refusals).toBe(0))
    expect(await predictions.get(id)).toMatchObject({ status: 'processing' })
    expect(await store.deliveries.listOfPrediction(id)).toEqual([])
    // The full disk is tried again.
    expect(await predictions.waitUntilTerminal(id)).toMatchObject({ status: 'succeeded' })
    expect(await store.deliveries.listOfPrediction(id)).toHaveLength(1)
  })

  test('comes once for the start, for each line and each picture, and for the end', async () => {
    const kinds: string[] = []
    const { predictions } = await openPredictions({
      fake: { failures: [death] },
      onEvent: (_, kind) => void kinds.push(kind),
    })
    const { id } = await predictions.create(request({}, { num_outputs: 2 }))
    await predictions.waitUntilTerminal(id)
    expect(kinds.filter((kind) => kind !== 'logs')).toEqual([
      'start',
      'output',
      'output',
      'completed',
    ])
  })
})

describe('cancel', () => {
  test('ends a waiting and a running prediction at once, and what waits behind runs', async () => {
    const gate = createGate()
    const { predictions, engine } = await openPredictions({ fake: { gate: gate.promise } })
    const [running, waiting, last] = await Promise.all(
      [1, 2, 3].map((seed) => predictions.create(request({}, { seed }))),
    )
    await vi.waitFor(() => expect(engine.plans).toHaveLength(1))
    expect(await predictions.cancel(waiting!.id)).toMatchObject({ status: 'canceled', metrics: {} })
    expect(await predictions.cancel(running!.id)).toMatchObject({ status: 'canceled' })
    expect(await predictions.cancel(running!.id)).toMatchObject({ status: 'canceled' })
    expect(await predictions.cancel('unknown')).toBeUndefined()
    gate.open()
    expect(await predictions.waitUntilTerminal(last!.id)).toMatchObject({ status: 'succeeded' })
    expect(engine.plans.map(({ seed }) => seed)).toEqual([1, 3])
    expect(engine.canceledSeeds).toEqual([1])
  })

  test('leaves no file behind', async () => {
    const { predictions, engine, files } = await openPredictions({ fake: { gate: never } })
    const { id } = await predictions.create(request())
    await vi.waitFor(() => expect(engine.plans).toHaveLength(1))
    await predictions.cancel(id)
    await predictions.stop()
    expect(await files.list('output', { limit: 10 })).toEqual([])
  })

  test.each(['waiting', 'running'])('a deadline cancels what is %s', async (state) => {
    const { predictions, engine } = await openPredictions({ fake: { gate: never } })
    if (state === 'waiting') await predictions.create(request())
    const deadline = new Date(Date.now() + 80)
    const { id } = await predictions.create(request({ deadline }))
    const prediction = await predictions.waitUntilTerminal(id, { timeoutMs: 5000 })
    expect(prediction).toMatchObject({ status: 'canceled' })
    expect(prediction.startedAt === undefined).toBe(state === 'waiting')
    expect(engine.plans).toHaveLength(1)
  })
})

describe('waiting', () => {
  test('for what was admitted while the server stopped ends at once', async () => {
    const { predictions } = await openPredictions({ fake: { gate: never } })
    const admitting = predictions.create(request())
    const stopping = predictions.stop()
    const { id } = await admitting
    expect((await predictions.waitUntilTerminal(id)).status).toBe('starting')
    await stopping
  })

  test('ends at the timeout and when the client hangs up, with the state of then', async () => {
    const { predictions, engine } = await openPredictions({ fake: { gate: never } })
    const { id } = await predictions.create(request())
    await vi.waitFor(() => expect(engine.plans).toHaveLength(1))
    expect((await predictions.waitUntilTerminal(id, { timeoutMs: 10 })).status).toBe('processing')
    const hangingUp = new AbortController()
    const waiting = predictions.waitUntilTerminal(id, { signal: hangingUp.signal })
    hangingUp.abort()
    expect((await waiting).status).toBe('processing')
    await expect(predictions.waitUntilTerminal('unknown')).rejects.toMatchObject({
      code: 'not_found',
    })
  })
})

describe('preparation', () => {
  const lora = { role: 'main', name: 'a/b', source: 'a/b', scale: 1 } as const
  const acquired = (release = () => {}) => ({ path: '/lora', digest: '0'.repeat(64), release })
  const withLora = (seed: number) => request({ loras: [lora] }, { replicate_weights: 'a/b', seed })

  test('of the next prediction happens while the current one runs', async () => {
    const gate = createGate()
    const acquire = vi.fn(async () => acquired())
    const { predictions, engine } = await openPredictions({
      loras: lorasOf(acquire),
      fake: { gate: gate.promise },
    })
    await predictions.create(withLora(1))
    await vi.waitFor(() => expect(engine.plans).toHaveLength(1))
    const { id } = await predictions.create(withLora(2))
    await vi.waitFor(() => expect(acquire).toHaveBeenCalledTimes(2))
    expect((await predictions.get(id))?.status).toBe('starting')
    gate.open()
    const done = await predictions.waitUntilTerminal(id)
    // What the fake engine says; the download cost the engine nothing.
    expect(done.metrics.loraSwitchMs).toBe(250)
  })

  test('tells the engine of the LoRAs of the next one and of no other', async () => {
    const [ready, gate] = [createGate(), createGate()]
    const { predictions, engine, files } = await openPredictions({
      loras: lorasOf(async () => acquired()),
      fake: { ready: ready.promise, gate: gate.promise },
    })
    const { id: upload } = await files.add({
      ...{ kind: 'upload', name: 'a.png', contentType: 'image/png' },
      bytes: await sharp({ create: { width: 32, height: 16, channels: 3, background: 'red' } })
        .png()
        .toBuffer(),
    })
    await predictions.create(withLora(1))
    const image = `http://localhost:5000/v1/files/${upload}`
    const next = await predictions.create(
      request(
        { loras: [{ ...lora, scale: 0.5 }] },
        { replicate_weights: 'a/b', lora_scale: 0.5, go_fast: true, image },
      ),
    )
    // The running one's own LoRAs come first.
    expect(engine.prefetched).toEqual([])
    ready.open()
    const loras = (scale: number) => [{ name: 'a/b', path: '/lora', digest: '0'.repeat(64), scale }]
    const fast = { variant: 'dev', precision: 'fp8', loras: loras(0.75) }
    await vi.waitFor(() => expect(engine.prefetched).toEqual([fast]))
    await predictions.create(withLora(3))
    const urgent = await predictions.create(request({ priority: 1 }, { model: 'schnell' }))
    const plain = { variant: 'schnell', precision: 'bf16', loras: [] }
    await vi.waitFor(() => expect(engine.prefetched.slice(1)).toEqual([plain]))
    await predictions.cancel(urgent.id)
    await vi.waitFor(() => expect(engine.prefetched.slice(2)).toEqual([fast]))
    await predictions.cancel(next.id)
    await vi.waitFor(() => expect(engine.prefetched).toHaveLength(4))
    expect(engine.prefetched[3]).toEqual({ variant: 'dev', precision: 'bf16', loras: loras(1) })
    gate.open()
  })

  test('is told of again to an engine that has died', async () => {
    const gate = createGate()
    const { predictions, engine } = await openPredictions({
      loras: lorasOf(async () => acquired()),
      fake: { gate: gate.promise, failures: [death] },
    })
    await predictions.create(withLora(1))
    const { id } = await predictions.create(withLora(2))
    await vi.waitFor(() => expect(engine.prefetched).toHaveLength(1))
    gate.open()
    await predictions.waitUntilTerminal(id)
    expect(engine.plans.map(({ seed }) => seed)).toEqual([1, 1, 2])
    expect(engine.prefetched).toHaveLength(2)
  })

  test('that is slow lets the one behind it go first', async () => {
    const gate = createGate()
    const acquire = async () => {
      await gate.promise
      return acquired()
    }
    const { predictions, engine } = await openPredictions({ loras: lorasOf(acquire) })
    const slow = await predictions.create(withLora(1))
    const quick = await predictions.create(request({}, { seed: 2 }))
    expect(await predictions.waitUntilTerminal(quick.id)).toMatchObject({ status: 'succeeded' })
    expect(await predictions.get(slow.id)).toMatchObject({ status: 'starting' })
    await new Promise((resolve) => setTimeout(resolve, 30))
    gate.open()
    const { metrics } = await predictions.waitUntilTerminal(slow.id)
    expect(engine.plans.map(({ seed }) => seed)).toEqual([2, 1])
    // The engine stood still for it, and then took the fake engine's 250 ms.
    expect(metrics.loraSwitchMs).toBeGreaterThanOrEqual(275)
  })

  test('writes its lines into the log before the seed, also when the engine dies', async () => {
    const acquire = vi.fn(
      async (_: string, { writeLine }: { writeLine: (line: string) => void }) => {
        writeLine('Downloading weights')
        return acquired()
      },
    )
    const { predictions } = await openPredictions({
      loras: lorasOf(acquire),
      fake: { failures: [death] },
    })
    const { id } = await predictions.create(withLora(7))
    const lines = (await predictions.waitUntilTerminal(id)).logs.split('\n')
    expect(lines.filter((line) => !line.includes('|'))).toEqual([
      'Downloading weights',
      'The engine process was killed by SIGKILL; this is the second run',
      'No safety checker is installed: the output is not checked',
      'Loaded LoRAs in 0.25s',
      'Using seed: 7',
      'Prompt: p',
      '[!] txt2img mode',
      '',
    ])
    expect(acquire).toHaveBeenCalledTimes(1)
  })

  test('that does not fit is called what the client called it, not where it lies', async () => {
    const [name, source] = [
      'https://a.example/x.safetensors?…',
      'https://a.example/x.safetensors?t=S',
    ]
    const failure = new FluxdError('lora_invalid', `${name}: expected a LoRA for Flux.1`)
    const { predictions, engine } = await openPredictions({
      loras: lorasOf(async () => acquired()),
      fake: { failure },
    })
    const loras = [{ ...lora, name, source }]
    const { id } = await predictions.create(request({ loras }))
    expect((await predictions.waitUntilTerminal(id)).error).toBe(failure.message)
    expect(engine.requests).toMatchObject([{ loras: [{ name, path: acquired().path }] }])
  })

  test('hands a file of this machine to the engine under the digest that it has now', async () => {
    const open = vi.fn(async (path: string) => ({ ...acquired(), path }))
    const { predictions, engine } = await openPredictions({
      loras: { ...lorasOf(async () => acquired()), open },
    })
    const file = { ...lora, name: 'a.safetensors', path: '/own/a.safetensors' }
    const { id } = await predictions.create(request({ loras: [file] }))
    await predictions.waitUntilTerminal(id)
    const { name, path, scale } = file
    const loras = [{ name, path, digest: '0'.repeat(64), scale }]
    expect(engine.plans).toMatchObject([{ loras }])
  })

  test.each([
    ['a file of this machine', { path: '/own/a.safetensors' }],
    ['a reference', {}],
  ])('refuses %s that is not what the version was made of', async (_, place) => {
    const open = async () => acquired()
    const { predictions } = await openPredictions({ loras: { ...lorasOf(open), open } })
    const changed = { ...lora, name: 'a.safetensors', sha256: '1'.repeat(64), ...place }
    const { id } = await predictions.create(request({ loras: [changed] }))
    expect((await predictions.waitUntilTerminal(id)).error).toBe(
      `Expected a.safetensors to have the SHA-256 ${'1'.repeat(64)} but received ${'0'.repeat(64)}`,
    )
  })

  test('gives each LoRA back once, whatever happens', async () => {
    const release = vi.fn()
    const { predictions, engine } = await openPredictions({
      loras: lorasOf(async () => acquired(release)),
      fake: { gate: never },
    })
    const running = await predictions.create(withLora(1))
    const waiting = await predictions.create(withLora(2))
    await vi.waitFor(() => expect(engine.plans).toHaveLength(1))
    expect(release).not.toHaveBeenCalled()
    await predictions.cancel(waiting.id)
    await vi.waitFor(() => expect(release).toHaveBeenCalledTimes(1))
    await predictions.cancel(running.id)
    await vi.waitFor(() => expect(release).toHaveBeenCalledTimes(2))
  })

  test('reads this server’s own files from disk, whatever host is in front of them', async () => {
    const { predictions, engine, files } = await openPredictions()
    const create = { width: 40, height: 24, channels: 3, background: 'red' } as const
    const bytes = await sharp({ create }).png().toBuffer()
    const { id } = await files.add({
      kind: 'upload',
      name: 'a.png',
      contentType: 'image/png',
      bytes,
    })
    for (const image of [
      `http://localhost:5000/v1/files/${id}`,
      `https://a.example/files/${id}/a.png`,
    ]) {
      const created = await predictions.create(request({}, { image, prompt_strength: 1 }))
      expect(await predictions.waitUntilTerminal(created.id)).toMatchObject({ status: 'succeeded' })
    }
    expect(engine.plans).toMatchObject([
      { start: { image: { size: { width: 40, height: 24 } } } },
      { start: { image: { size: { width: 40, height: 24 } } } },
    ])
  })

  test('says of one of its files that has gone that it has gone', async () => {
    const { predictions } = await openPredictions()
    const id = '0'.repeat(26)
    const image = `http://127.0.0.1:5000/v1/files/${id}`
    const created = await predictions.create(request({}, { image }))
    expect((await predictions.waitUntilTerminal(created.id)).error).toBe(
      `image: There is no file ${id} here any more, and it cannot be fetched: ` +
        'Expected the URL of a public server but 127.0.0.1 is not one',
    )
  })
})

test('the log of go_fast begins as the reference’s does', async () => {
  const { predictions } = await openPredictions()
  const { id } = await predictions.create(request({}, { go_fast: true }))
  const lines = (await predictions.waitUntilTerminal(id)).logs.split('\n')
  expect(lines.slice(1, 3)).toEqual(['running quantized prediction', 'Using seed: 7'])
})

describe('watching', () => {
  const collect = () => {
    const events: PredictionEvent[] = []
    return { events, listener: (event: PredictionEvent) => void events.push(event) }
  }
  const kindsOf = (events: readonly PredictionEvent[]) =>
    events.map((event) => (event.kind === 'status' ? event.prediction.status : event.kind))

  test('tells all from the beginning, in order, with rising ids', async () => {
    const gate = createGate()
    const { predictions } = await openPredictions({ fake: { gate: gate.promise } })
    const { id } = await predictions.create(request())
    const { events, listener } = collect()
    await predictions.watch(id, listener)
    gate.open()
    await predictions.waitUntilTerminal(id)
    const kinds = kindsOf(events)
    expect(kinds.filter((kind) => kind !== 'log')).toEqual([
      'starting',
      'processing',
      'output',
      'succeeded',
    ])
    expect(kinds.filter((kind) => kind === 'log').length).toBeGreaterThan(4)
    const ids = events.map((event) => event.id)
    expect(ids).toEqual([...new Set(ids)].sort((a, b) => a - b))
  })

  test('goes on after the last event that was seen, also after the end', async () => {
    const { predictions } = await openPredictions()
    const { id } = await predictions.create(request())
    const all = collect()
    await predictions.watch(id, all.listener)
    await predictions.waitUntilTerminal(id)
    const rest = collect()
    const { id: after } = all.events.at(-3)!
    await predictions.watch(id, rest.listener, { after })
    expect(rest.events).toEqual(all.events.slice(-2))
  })

  test('retells what was over before the server started', async () => {
    const first = await openPredictions()
    const { id } = await first.predictions.create(request())
    const done = await first.predictions.waitUntilTerminal(id)
    await first.predictions.stop()
    first.kill()
    const { predictions } = await openPredictions({ folder: first.folder })
    const { events, listener } = collect()
    await predictions.watch(id, listener)
    expect(
      events.flatMap((event) => (event.kind === 'log' ? [`${event.line}\n`] : [])).join(''),
    ).toBe(done.logs)
    expect(kindsOf(events).slice(-2)).toEqual(['output', 'succeeded'])
  })

  test('ends when it is stopped', async () => {
    const { predictions } = await openPredictions({ fake: { gate: never } })
    const { id } = await predictions.create(request())
    const { events, listener } = collect()
    const stop = await predictions.watch(id, listener)
    stop()
    await predictions.cancel(id)
    expect(kindsOf(events)).not.toContain('canceled')
  })
})

test('the estimate is the place in the queue, and the time once it has been measured', async () => {
  const first = await openPredictions()
  const { predictions } = first
  const measured = await predictions.create(request())
  expect(await predictions.queueEstimate(measured.id)).toEqual({ position: 0 })
  await predictions.waitUntilTerminal(measured.id)
  expect(await predictions.queueEstimate(measured.id)).toBeUndefined()
  const ids: string[] = []
  for (let n = 0; n < 3; n++) ids.push((await predictions.create(request())).id)
  const estimates = await Promise.all(ids.map((id) => predictions.queueEstimate(id)))
  expect(estimates.map((estimate) => estimate?.position)).toEqual([0, 1, 2])
  for (const estimate of estimates) expect(estimate?.etaSeconds).toBeGreaterThanOrEqual(0)
})

describe('a list', () => {
  test('has the newest first, and its cursors lead to every page and back', async () => {
    const { predictions } = await openPredictions({ fake: { gate: never } })
    const ids: string[] = []
    for (let n = 0; n < 7; n++) ids.unshift((await predictions.create(request())).id)
    const idsOf = async (cursor?: string) => {
      const page = await predictions.list({ limit: 3, ...(cursor && { cursor }) })
      return { ...page, ids: page.predictions.map(({ id }) => id) }
    }
    const [one, two] = [await idsOf(), await idsOf((await idsOf()).next)]
    const three = await idsOf(two.next)
    expect([one.ids, two.ids, three.ids]).toEqual([ids.slice(0, 3), ids.slice(3, 6), ids.slice(6)])
    expect([one.previous, three.next]).toEqual([undefined, undefined])
    expect((await idsOf(three.previous)).ids).toEqual(two.ids)
    expect(await idsOf(two.previous)).toMatchObject({ ids: one.ids, previous: undefined })
    await expect(idsOf('nonsense')).rejects.toThrow(/Expected a cursor of this server/)
  })

  test('is bounded by times', async () => {
    const { predictions } = await openPredictions({ fake: { gate: never } })
    await predictions.create(request())
    const soon = new Date(Date.now() + 1000)
    expect((await predictions.list({ limit: 3, createdBefore: soon })).predictions).toHaveLength(1)
    expect((await predictions.list({ limit: 3, createdAfter: soon })).predictions).toEqual([])
  })
})

test('after the retention input, log and pictures are gone, and the record says so', async () => {
  const { predictions, files, store, folder } = await openPredictions()
  const { id } = await predictions.create(request())
  const { output } = await predictions.waitUntilTerminal(id)
  const { fileId } = output![0]!
  const options = { store: store.predictions, files, onFault: () => {} }
  startRetention({ ...options, retentionMs: 60_000 })()
  await new Promise((resolve) => setTimeout(resolve, 50))
  expect(await predictions.get(id)).toMatchObject({ dataRemoved: false })
  startRetention({ ...options, retentionMs: 1 })()
  await vi.waitFor(async () => expect((await predictions.get(id))?.dataRemoved).toBe(true))
  expect(await predictions.get(id)).toMatchObject({ id, status: 'succeeded', input: {}, logs: '' })
  expect((await predictions.get(id))?.output).toBeUndefined()
  expect(await files.find(fileId)).toBeUndefined()
  expect(existsSync(join(folder, 'files', fileId.slice(0, 2), fileId))).toBe(false)
  const events: PredictionEvent[] = []
  await predictions.watch(id, (event) => events.push(event))
  expect(events).toMatchObject([{ kind: 'status' }])
})
