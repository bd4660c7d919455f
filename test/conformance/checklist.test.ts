/**
 * What the official JavaScript client needs of a server, with only its base URL changed: the 21 points
 * of C-3.11, over HTTP and in their order.
 */
import Replicate, { type FileOutput, type Prediction, parseProgressFromLogs } from 'replicate'
import sharp from 'sharp'
import { describe, expect, test, vi } from 'vitest'
import { FluxdError } from '../../src/errors.js'
import { createFakeEngine } from '../fakeEngine.js'
import { createGate } from '../gate.js'
import { startServer } from './server.js'

const model = 'fluxd/flux'
const input = { prompt: 'a red circle', num_inference_steps: 1 }
const isoTime = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/

const drawPng = () =>
  sharp({ create: { width: 64, height: 48, channels: 3, background: 'blue' } })
    .png()
    .toBuffer()

/** The client's `fetch`, counting what goes out by method and path. */
function countRequests(
  answer: (url: URL, init?: RequestInit) => Response | undefined = () => undefined,
) {
  const requests: string[] = []
  const fetchCounted = async (url: Request | string | URL, init?: RequestInit) => {
    const target = new URL(url instanceof Request ? url.url : url)
    requests.push(`${init?.method ?? 'GET'} ${target.pathname}`)
    return answer(target, init) ?? fetch(url, init)
  }
  return { requests, fetch: fetchCounted }
}

test.each(['/v1', '/v1/'])('1. the base URL may end with %s', async (path) => {
  const { url } = await startServer()
  const replicate = new Replicate({ auth: 'any', baseUrl: url + path })
  await expect(replicate.accounts.current()).resolves.toMatchObject({ username: 'fluxd' })
})

describe('2. lists are pages', () => {
  test.each(['collections', 'models', 'predictions', 'deployments', 'files'] as const)(
    '%s has results, and no next where there is no more',
    async (resource) => {
      const { replicate } = await startServer()
      const page = await replicate[resource].list()
      expect(page).toMatchObject({ next: null, previous: null, results: expect.any(Array) })
    },
  )

  test('paginate follows the absolute next until it is null', async () => {
    const { replicate, url, request } = await startServer()
    const version = (await replicate.models.get('fluxd', 'flux')).latest_version!.id
    const created: Promise<Prediction>[] = []
    for (let i = 0; i < 103; i++)
      created.push(replicate.predictions.create({ version, input: { ...input, seed: i } }))
    await Promise.all(created)
    const pages: Prediction[][] = []
    for await (const page of replicate.paginate(replicate.predictions.list)) pages.push(page)
    expect(pages.map(({ length }) => length)).toEqual([100, 3])
    const ids = pages.flat().map(({ id }) => id)
    expect(new Set(ids).size).toBe(103)
    const times = pages.flat().map(({ created_at }) => created_at)
    expect(times).toEqual([...times].sort().reverse())
    const { next } = await replicate.predictions.list()
    expect(next!.startsWith(`${url}/v1/predictions?cursor=`)).toBe(true)
    const { body } = await request(next!.slice(url.length))
    expect(body.next).toBeNull()
    const newer = await request(body.previous.slice(url.length))
    expect(newer.body.results.map(({ id }: Prediction) => id)).toEqual(ids.slice(0, 100))
  })

  test('trainings are none of ours, and the reply says so', async () => {
    const { replicate } = await startServer()
    await expect(replicate.trainings.list()).rejects.toThrow(
      '"title":"Trainings are not supported"',
    )
  })
})

test('3. the account has a type and a username', async () => {
  const { replicate } = await startServer()
  expect(await replicate.accounts.current()).toMatchObject({ type: 'user', username: 'fluxd' })
})

test('4. a collection, a model, the hardware and the webhook secret can be read', async () => {
  const { replicate } = await startServer()
  const [listed] = (await replicate.collections.list()).results
  const collection = await replicate.collections.get(listed!.slug)
  expect(collection.models!.map(({ owner, name }) => `${owner}/${name}`)).toContain(model)
  expect(await replicate.models.get('fluxd', 'flux')).toMatchObject({
    owner: 'fluxd',
    name: 'flux',
    visibility: expect.stringMatching(/^(public|private)$/),
    run_count: 0,
    latest_version: { id: expect.stringMatching(/^[0-9a-f]{64}$/), cog_version: '0.9.26' },
  })
  expect(await replicate.hardware.list()).toEqual([
    { sku: expect.any(String), name: expect.any(String) },
  ])
  const { key } = await replicate.webhooks.default.secret.get()
  expect(key).toMatch(/^whsec_[A-Za-z0-9+/]{32}$/)
  expect(await replicate.webhooks.default.secret.get()).toEqual({ key })
})

test('5. a prediction is created from version, input and webhook, whatever the input holds', async () => {
  const { replicate, engine } = await startServer()
  const version = (await replicate.models.get('fluxd', 'flux')).latest_version!.id
  const various = { ...input, go_fast: false, guidance_scale: 2.5, tags: ['a', 1], deep: { er: 1 } }
  const prediction = await replicate.predictions.create({
    version,
    input: various,
    webhook: 'https://example.com/webhook',
    webhook_events_filter: ['start', 'completed'],
  })
  expect(prediction).toMatchObject({
    id: expect.stringMatching(/^[a-z0-9]{26}$/),
    model,
    version,
    input: various,
    output: null,
    error: null,
    logs: '',
    data_removed: false,
    source: 'api',
    status: 'starting',
    created_at: expect.stringMatching(isoTime),
    started_at: null,
    completed_at: null,
    webhook: 'https://example.com/webhook',
    webhook_events_filter: ['start', 'completed'],
  })
  await replicate.wait(prediction, {})
  expect(engine.plans).toMatchObject([{ prompt: input.prompt, guidance: 2.5 }])
})

test('6. a Blob, a File and a Buffer are uploaded first and arrive as the picture', async () => {
  const { replicate, engine } = await startServer()
  const bytes = await drawPng()
  const files = [
    new Blob([new Uint8Array(bytes)]),
    new File([new Uint8Array(bytes)], 'own.png'),
    bytes,
  ]
  for (const image of files) await replicate.run(model, { input: { ...input, image } })
  expect(engine.plans.map(({ start, size }) => [start.kind, size])).toEqual(
    files.map(() => ['image', { width: 64, height: 48 }]),
  )
  const { results } = await replicate.files.list()
  expect(results).toMatchObject(
    [/^buffer_\d+$/, /^own\.png$/, /^blob_\d+$/].map((name) => ({
      name: expect.stringMatching(name),
      content_type: 'image/png',
    })),
  )
})

test('7. where a gateway answers uploads with 503, the picture comes as a data URI', async () => {
  const { url, engine } = await startServer()
  const { requests, fetch } = countRequests(({ pathname }) =>
    pathname === '/v1/files' ? new Response('down', { status: 503 }) : undefined,
  )
  const replicate = new Replicate({ auth: 'any', baseUrl: `${url}/v1`, fetch })
  await replicate.run(model, {
    input: { ...input, image: new Blob([new Uint8Array(await drawPng())]) },
  })
  expect(requests).toContain('POST /v1/files')
  expect(engine.plans).toMatchObject([{ start: { kind: 'image' } }])
})

test('8. an upload that is refused creates no prediction', async () => {
  const { replicate } = await startServer()
  const image = new File(['x'], `${'n'.repeat(256)}.png`)
  await expect(replicate.run(model, { input: { ...input, image } })).rejects.toThrow('status 422')
  expect((await replicate.predictions.list()).results).toEqual([])
})

test('9. what is wrong with a body is in the message of the ApiError', async () => {
  const { replicate } = await startServer()
  await expect(replicate.run(model, { input: { num_outputs: 5 } })).rejects.toThrow(
    /status 422 Unprocessable Entity: .*- input: prompt is required\\n- input.num_outputs: Must be less than or equal to 4\\n/,
  )
})

test('10. a full queue is a 429 with Retry-After, and the repeated request is served', async () => {
  const gate = createGate()
  const engine = createFakeEngine({ gate: gate.promise })
  const { url, replicate } = await startServer({ engine, environment: { FLUXD_MAX_QUEUE: '1' } })
  const version = (await replicate.models.get('fluxd', 'flux')).latest_version!.id
  const first = await replicate.predictions.create({ version, input })
  await vi.waitFor(async () =>
    expect((await replicate.predictions.get(first.id)).status).toBe('processing'),
  )
  await replicate.predictions.create({ version, input })
  const replies: Response[] = []
  const patient = new Replicate({
    auth: 'any',
    baseUrl: `${url}/v1`,
    fetch: async (target, init) => {
      const reply = await fetch(target, init)
      replies.push(reply)
      // The client itself repeats at once, six times in all.
      if (reply.status === 429) {
        gate.open()
        await new Promise((resolve) => setTimeout(resolve, 200))
      }
      return reply
    },
  })
  await patient.predictions.create({ version, input })
  expect(replies.map(({ status }) => status)).toEqual([429, 201])
  expect(replies[0]!.headers.get('retry-after')).toMatch(/^\d+$/)
  expect(replies[0]!.headers.get('x-should-retry')).toBe('true')
})

test('11. a 500 is repeated for GET and not for POST', async () => {
  const { url, replicate, services } = await startServer({
    environment: { FLUXD_OUTPUT_MODE: 'data' },
  })
  await replicate.run(model, { input })
  const [{ id }] = (await replicate.predictions.list()).results as [Prediction]
  vi.spyOn(services.files, 'read').mockRejectedValue(new Error('/secret/path is gone'))
  const { requests, fetch } = countRequests()
  const counted = new Replicate({ auth: 'any', baseUrl: `${url}/v1`, fetch })
  await expect(counted.predictions.get(id)).rejects.toThrow(/status 500(?!.*secret)/)
  expect(requests).toHaveLength(6)
  await expect(counted.predictions.cancel(id)).rejects.toThrow('status 500')
  expect(requests).toHaveLength(7)
})

test('12. cancel answers with the canceled prediction, running or waiting', async () => {
  const engine = createFakeEngine({ gate: new Promise(() => {}) })
  const { replicate } = await startServer({ engine })
  const version = (await replicate.models.get('fluxd', 'flux')).latest_version!.id
  const create = () => replicate.predictions.create({ version, input })
  const [running, waiting] = [await create(), await create()]
  await vi.waitFor(async () =>
    expect((await replicate.predictions.get(running.id)).status).toBe('processing'),
  )
  for (const { id } of [waiting, running])
    expect(await replicate.predictions.cancel(id)).toMatchObject({
      id,
      status: 'canceled',
      output: null,
      completed_at: expect.stringMatching(isoTime),
    })
  expect(await replicate.predictions.get(running.id)).toMatchObject({ status: 'canceled' })
})

test('13. models and deployments create predictions too', async () => {
  const { replicate } = await startServer()
  const byModel = await replicate.predictions.create({ model, input })
  const { version } = byModel
  await replicate.deployments.create({
    name: 'mine',
    model,
    version,
    hardware: 'local',
    min_instances: 0,
    max_instances: 1,
  })
  const deployed = await replicate.deployments.predictions.create('fluxd', 'mine', { input })
  expect(deployed).toMatchObject({ model, version, deployment: 'fluxd/mine' })
  expect(await replicate.wait(deployed, {})).toMatchObject({ status: 'succeeded' })
})

test('14. deployments are created, changed, listed and deleted', async () => {
  const { replicate } = await startServer()
  const { version } = await replicate.predictions.create({ model, input })
  const made = await replicate.deployments.create({
    name: 'mine',
    model,
    version,
    hardware: 'local',
    min_instances: 0,
    max_instances: 1,
  })
  expect(made).toEqual({
    owner: 'fluxd',
    name: 'mine',
    current_release: {
      number: 1,
      model,
      version,
      created_at: expect.stringMatching(isoTime),
      created_by: expect.objectContaining({ type: 'user', username: 'fluxd' }),
      configuration: { hardware: 'local', min_instances: 0, max_instances: 1 },
    },
  })
  const changed = await replicate.deployments.update('fluxd', 'mine', { max_instances: 3 })
  expect(changed.current_release).toMatchObject({ number: 2, configuration: { max_instances: 3 } })
  expect(await replicate.deployments.get('fluxd', 'mine')).toEqual(changed)
  expect((await replicate.deployments.list()).results).toEqual([changed])
  expect(await replicate.deployments.delete('fluxd', 'mine')).toBe(true)
  await expect(replicate.deployments.get('fluxd', 'mine')).rejects.toThrow('status 404')
})

test('15. files are created, read, listed and deleted', async () => {
  const { replicate } = await startServer()
  const file = await replicate.files.create(Buffer.from('hello'), { purpose: 'a test' })
  expect(file).toMatchObject({
    name: expect.stringMatching(/^buffer_\d+$/),
    content_type: 'application/octet-stream',
    size: 5,
    etag: '5d41402abc4b2a76b9719d911017c592',
    checksums: {
      md5: '5d41402abc4b2a76b9719d911017c592',
      sha256: '2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824',
    },
    metadata: { purpose: 'a test' },
  })
  const day = new Date(file.expires_at!).getTime() - new Date(file.created_at).getTime()
  expect(day).toBe(24 * 60 * 60 * 1000)
  expect(await replicate.files.get(file.id)).toEqual(file)
  expect((await replicate.files.list()).results).toEqual([file])
  expect(await replicate.files.delete(file.id)).toBe(true)
  await expect(replicate.files.get(file.id)).rejects.toThrow('{"detail":"File not found"}')
})

test('16. models are created and found', async () => {
  const { replicate } = await startServer()
  const made = await replicate.models.create('acme', 'my-lora', {
    visibility: 'private',
    hardware: 'local',
    description: 'Draws lighthouses',
  })
  expect(made).toMatchObject({ owner: 'acme', name: 'my-lora', description: 'Draws lighthouses' })
  const { results } = await replicate.models.search('LIGHTHOUSES acme')
  expect(results).toEqual([made])
  expect((await replicate.models.search('zebra')).results).toEqual([])
  expect(await replicate.run('acme/my-lora', { input })).toHaveLength(1)
})

test('17. run in poll mode goes from starting over processing to succeeded, with progress', async () => {
  const gate = createGate()
  const engine = createFakeEngine({ gate: gate.promise })
  const { replicate } = await startServer({ engine })
  const seen: Prediction[] = []
  const output = await replicate.run(
    model,
    { input: { ...input, num_inference_steps: 4 }, wait: { mode: 'poll', interval: 20 } },
    (prediction) => {
      seen.push(prediction)
      if (prediction.status === 'processing' && /25%/.test(prediction.logs ?? '')) gate.open()
    },
  )
  expect(output).toHaveLength(1)
  const statuses = seen.map(({ status }) => status)
  expect(statuses[0]).toBe('starting')
  expect(statuses).toContain('processing')
  expect(statuses.at(-1)).toBe('succeeded')
  const shown = seen.map((prediction) => parseProgressFromLogs(prediction)).filter(Boolean)
  expect(shown).toContainEqual({ percentage: 0.25, current: 1, total: 4 })
  expect(shown.at(-1)).toEqual({ percentage: 1, current: 4, total: 4 })
})

test('18. a name may have dots and dashes, and a version need not be hexadecimal', async () => {
  const { replicate } = await startServer()
  await replicate.models.create('a', 'b-1.0', { visibility: 'private', hardware: 'local' })
  const { latest_version } = await replicate.models.get('a', 'b-1.0')
  expect(await replicate.run(`a/b-1.0:${latest_version!.id}`, { input })).toHaveLength(1)
  await expect(replicate.run('a/b-1.0:abc123', { input })).rejects.toThrow(
    '"title":"Invalid version or not permitted"',
  )
})

test('19. an abort cancels once', async () => {
  const engine = createFakeEngine({ gate: new Promise(() => {}) })
  const { url } = await startServer({ engine })
  const { requests, fetch } = countRequests()
  const replicate = new Replicate({ auth: 'any', baseUrl: `${url}/v1`, fetch })
  const controller = new AbortController()
  const output = await replicate.run(
    model,
    { input, signal: controller.signal, wait: { mode: 'poll', interval: 10 } },
    ({ status }) => {
      if (status === 'processing') controller.abort()
    },
  )
  expect(output).toBeNull()
  expect(requests.filter((request) => /^POST .*\/cancel$/.test(request))).toHaveLength(1)
  await vi.waitFor(() => expect(engine.canceledSeeds).toHaveLength(1))
})

test('20. data URIs become FileOutputs with the type of the picture', async () => {
  const { replicate } = await startServer({ environment: { FLUXD_OUTPUT_MODE: 'data' } })
  const [output] = (await replicate.run(model, {
    input: { ...input, output_format: 'png' },
  })) as FileOutput[]
  const blob = await output!.blob()
  expect(blob.type).toBe('image/png')
  const picture = await sharp(Buffer.from(await blob.arrayBuffer())).metadata()
  expect(picture).toMatchObject({ format: 'png', width: 32 })
})

test('20. URLs of a server that is reached by https become FileOutputs too', async () => {
  const { url } = await startServer({
    environment: { FLUXD_PUBLIC_URL: 'https://pictures.example' },
  })
  // What a TLS terminator does.
  const { requests, fetch } = countRequests()
  const terminate = (target: Request | string | URL, init?: RequestInit) =>
    fetch(String(target).replace('https://pictures.example', url), init)
  const replicate = new Replicate({ auth: 'any', baseUrl: `${url}/v1`, fetch: terminate })
  const [output] = (await replicate.run(model, { input })) as FileOutput[]
  expect(output!.url().href).toMatch(
    /^https:\/\/pictures\.example\/files\/[a-z0-9]{26}\/out-0\.webp$/,
  )
  expect((await output!.blob()).type).toBe('image/webp')
  expect(requests.at(-1)).toMatch(/^GET \/files\//)
})

describe('21. the stream', () => {
  const collect = async (events: AsyncIterable<{ event: string; data: unknown; id?: string }>) => {
    const seen = []
    for await (const event of events) seen.push(event)
    return seen
  }

  test('tells logs and pictures, and ends with done', async () => {
    const { replicate } = await startServer()
    const events = await collect(replicate.stream(model, { input: { ...input, num_outputs: 2 } }))
    const kinds = events.map(({ event }) => event)
    expect(kinds.slice(-3)).toEqual(['output', 'output', 'done'])
    expect(new Set(kinds.slice(0, -3))).toEqual(new Set(['logs']))
    expect(events.at(-1)!.data).toBe('{}')
    const logs = events.filter(({ event }) => event === 'logs').map(({ data }) => data)
    expect(logs.join('')).toMatch(/Using seed: \d+\nPrompt: a red circle\n/)
    const [picture] = events.filter(({ event }) => event === 'output')
    expect((await (picture!.data as FileOutput).blob()).type).toBe('image/webp')
  })

  test('has ids that rise', async () => {
    const { replicate } = await startServer()
    const events = await collect(replicate.stream(model, { input }))
    const ids = events.map(({ id }) => id!)
    for (const id of ids) expect(id).toMatch(/^\d{10}:\d{1,7}$/)
    const numbers = ids.map((id) => id.split(':').map(Number)).map(([s, n]) => s! * 1024_000 + n!)
    expect(numbers).toEqual([...new Set(numbers)].sort((a, b) => a - b))
  })

  test('throws what made the prediction fail', async () => {
    const engine = createFakeEngine({ failure: new FluxdError('engine_failed', 'out of memory') })
    const { replicate } = await startServer({ engine })
    await expect(collect(replicate.stream(model, { input }))).rejects.toThrow(
      /"detail":".*out of memory/,
    )
  })

  test('ends with the reason of a cancel', async () => {
    const engine = createFakeEngine({ gate: new Promise(() => {}) })
    const { replicate } = await startServer({ engine })
    const events = []
    for await (const event of replicate.stream(model, { input })) {
      events.push(event)
      const [{ id }] = (await replicate.predictions.list()).results as [Prediction]
      if (events.length === 1) await replicate.predictions.cancel(id)
    }
    expect(events.at(-1)).toMatchObject({ event: 'done', data: '{"reason":"canceled"}' })
  })

  test('a stream that there is none of is an error', async () => {
    const { request } = await startServer()
    const reply = await request('/v1/files/stream-00000000000000000000000000')
    expect(reply.status).toBe(404)
  })
})
