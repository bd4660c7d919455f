import { createHmac } from 'node:crypto'
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import sharp from 'sharp'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { startServer, type TestServer } from '../../../conformance/server.js'
import { temporaryData } from '../../../temporaryData.js'

const drawPng = async () =>
  new Uint8Array(
    await sharp({ create: { width: 8, height: 8, channels: 3, background: 'blue' } })
      .png()
      .toBuffer(),
  )

async function upload({ request }: TestServer, content: Blob, fields: Record<string, string> = {}) {
  const form = new FormData()
  form.append('content', content)
  for (const [name, value] of Object.entries(fields)) form.append(name, value)
  return request('/v1/files', { method: 'POST', body: form })
}

describe('an upload', () => {
  test('is told with every field, and expires after a day', async () => {
    const server = await startServer()
    const { status, body } = await upload(server, new Blob(['hello'], { type: 'text/plain' }), {
      filename: 'greeting.txt',
      metadata: '{"a":{"b":1}}',
    })
    expect(status).toBe(201)
    expect(body).toEqual({
      id: expect.stringMatching(/^[a-z0-9]{26}$/),
      name: 'greeting.txt',
      content_type: 'text/plain',
      size: 5,
      etag: '5d41402abc4b2a76b9719d911017c592',
      checksums: {
        md5: '5d41402abc4b2a76b9719d911017c592',
        sha256: '2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824',
      },
      metadata: { a: { b: 1 } },
      created_at: expect.any(String),
      expires_at: expect.any(String),
      urls: {
        get: `${server.url}/v1/files/${body.id}`,
        download: expect.stringMatching(/\/download\?owner=fluxd&expiry=\d+&signature=/),
      },
    })
  })

  test.each([
    ['application/octet-stream', undefined, 'image/png'],
    ['', undefined, 'image/png'],
    ['image/jpeg', undefined, 'image/jpeg'],
    ['image/jpeg', 'image/x-own', 'image/x-own'],
  ])('of type %j and field %j is of type %s', async (type, field, expected) => {
    const server = await startServer()
    const picture = new Blob([await drawPng()], { type })
    const { body } = await upload(server, picture, field === undefined ? {} : { type: field })
    expect(body.content_type).toBe(expected)
  })

  test('of more than 100 MiB is refused in the words of the contract', async () => {
    const server = await startServer()
    const { status, headers, text } = await upload(
      server,
      new Blob([new Uint8Array(100 * 1024 * 1024 + 1)]),
    )
    expect(status).toBe(413)
    expect(headers.get('content-type')).toBe('application/problem+json')
    expect(text).toBe('{"detail":"Files must be less than 100MB in size"}')
    expect((await server.request('/v1/files')).body.results).toEqual([])
  })

  test.each([
    [{ filename: 'n'.repeat(256) }, 'filename'],
    [{ type: 'image/png\nx: y' }, 'type'],
    [{ metadata: '[1]' }, 'metadata'],
    [{ metadata: '{' }, 'metadata'],
  ])('with %j is a problem', async (fields, field) => {
    const server = await startServer()
    const { status, body } = await upload(server, new Blob(['x']), fields as Record<string, string>)
    expect(status).toBe(422)
    expect(body.invalid_fields).toMatchObject([{ field }])
  })

  test('has the metadata that the generated clients send as a field for each key', async () => {
    const server = await startServer()
    const keys = Object.fromEntries(
      Array.from({ length: 20 }, (_, index) => [`metadata[k${index}]`, String(index)]),
    )
    const { status, body } = await upload(server, new Blob(['x']), {
      ...keys,
      'metadata[outer][inner]': 'deep',
      'metadata[__proto__][polluted]': 'yes',
    })
    expect(status).toBe(201)
    expect(body.metadata).toMatchObject({ k0: '0', k19: '19', outer: { inner: 'deep' } })
    expect(({} as Record<string, unknown>)['polluted']).toBeUndefined()
  })

  test('leaves nothing outside the data folder, and nothing in its scratch folder', async () => {
    const dataDir = temporaryData()
    const elsewhere = temporaryData()
    const server = await startServer({ environment: { FLUXD_DATA_DIR: dataDir } })
    vi.stubEnv('TMPDIR', elsewhere)
    onTestFinished(() => {
      vi.unstubAllEnvs()
    })
    const listed: string[][] = []
    const content = new Blob([new Uint8Array(1_000_000)])
    for (const fields of [{}, { metadata: '{' }, { filename: 'n'.repeat(256) }]) {
      await upload(server, content, fields as Record<string, string>)
      listed.push(readdirSync(join(dataDir, 'scratch/server/uploads')))
    }
    expect(listed).toEqual([[], [], []])
    expect(readdirSync(elsewhere)).toEqual([])
  })

  test('without a length ends where the quota does', async () => {
    const dataDir = temporaryData()
    const { url } = await startServer({
      environment: { FLUXD_DATA_DIR: dataDir, FLUXD_FILES_BYTES: '1MiB' },
    })
    async function* form() {
      yield Buffer.from(
        '--x\r\ncontent-disposition: form-data; name="content"; filename="a"\r\n\r\n',
      )
      for (let n = 0; n < 64; n++) yield Buffer.alloc(1024 * 1024)
      yield Buffer.from('\r\n--x--\r\n')
    }
    const reply = await fetch(`${url}/v1/files`, {
      method: 'POST',
      headers: { 'content-type': 'multipart/form-data; boundary=x' },
      body: ReadableStream.from(form()),
      duplex: 'half',
    } as RequestInit).catch((error: unknown) => error)
    // A client that still sends may see the connection end instead of the reply.
    if (reply instanceof Response) expect(reply.status).toBe(507)
    else expect(reply).toBeInstanceOf(TypeError)
    expect(readdirSync(join(dataDir, 'scratch/server/uploads'))).toEqual([])
  })

  test('with too many fields is refused for that', async () => {
    const server = await startServer()
    const fields = Object.fromEntries(
      Array.from({ length: 201 }, (_, index) => [`metadata[k${index}]`, 'x']),
    )
    const { status, body } = await upload(server, new Blob(['x']), fields)
    expect([status, body.title]).toEqual([413, 'Too many fields'])
  })

  test('that is none is a problem', async () => {
    const { request } = await startServer()
    const body = new FormData()
    body.append('metadata', '{}')
    const empty = await request('/v1/files', { method: 'POST', body })
    expect(empty.body).toMatchObject({ status: 422, detail: '- content is required\n' })
    const headers = { 'content-type': 'application/json' }
    const json = await request('/v1/files', { method: 'POST', headers, body: '{}' })
    expect(json.status).toBe(415)
  })
})

test('the list goes on where it was cut', async () => {
  const server = await startServer()
  for (let i = 0; i < 101; i++) await upload(server, new Blob([String(i)]))
  const first = await server.request('/v1/files')
  expect(first.body.results).toHaveLength(100)
  const rest = await server.request(first.body.next.slice(server.url.length))
  expect(rest.body).toMatchObject({ next: null, results: [{ size: 1 }] })
  const wrong = await server.request('/v1/files?cursor=bm9uZQ')
  expect(wrong.body).toMatchObject({ status: 422, title: 'Invalid cursor' })
})

describe('a download', () => {
  const content = '<script>alert(1)</script>'

  async function uploadPage(server: TestServer) {
    const { body } = await upload(server, new Blob([content], { type: 'text/html' }))
    return { id: body.id as string, url: new URL(body.urls.download) }
  }

  test('brings the bytes, and never as a page of this server', async () => {
    const server = await startServer()
    const { url } = await uploadPage(server)
    const reply = await server.request(url.pathname + url.search)
    expect(reply.text).toBe(content)
    expect(reply.headers.get('content-disposition')).toBe('attachment; filename="blob"')
    expect(reply.headers.get('x-content-type-options')).toBe('nosniff')
  })

  test('needs the signature of its owner, id and expiry', async () => {
    const server = await startServer()
    const [{ url }, other] = [await uploadPage(server), await uploadPage(server)]
    for (const [name, value] of [
      ['signature', 'AAAA'],
      ['owner', 'somebody'],
      ['expiry', '9999999999'],
    ] as const) {
      const forged = new URL(url)
      forged.searchParams.set(name, value)
      expect((await server.request(forged.pathname + forged.search)).status).toBe(403)
    }
    const moved = `/v1/files/${other.id}/download${url.search}`
    expect((await server.request(moved)).status).toBe(403)
  })

  test('ends when its time is over', async () => {
    const server = await startServer()
    const { id } = await uploadPage(server)
    const secret = server.services.downloadSecret
    const ask = (expiry: number) => {
      const text = `fluxd ${id} ${expiry}`
      const signature = createHmac('sha256', secret).update(text).digest('base64')
      const query = new URLSearchParams({ owner: 'fluxd', expiry: String(expiry), signature })
      return server.request(`/v1/files/${id}/download?${query}`)
    }
    const now = Math.floor(Date.now() / 1000)
    expect((await ask(now + 60)).status).toBe(200)
    expect((await ask(now - 1)).status).toBe(403)
  })
})

/** A server with one image, and its path. */
async function generate() {
  const server = await startServer()
  const { body } = await server.create(
    { input: { prompt: '', num_inference_steps: 1 } },
    { prefer: 'wait' },
  )
  const { request } = server
  const { pathname } = new URL(body.output[0])
  const get = (headers: Record<string, string>) => request(pathname, { headers })
  return { request, pathname, get, whole: (await get({})).text }
}

test('an output is no upload, and has one name', async () => {
  const { request, pathname } = await generate()
  const [, , id] = pathname.split('/')
  expect((await request(`/v1/files/${id}`)).text).toBe('{"detail":"File not found"}')
  expect((await request(`/v1/files/${id}`, { method: 'DELETE' })).status).toBe(404)
  expect((await request(`/files/${id}/other.webp`)).status).toBe(404)
  const { status, headers } = await request(pathname, { method: 'HEAD' })
  expect(status).toBe(200)
  expect(headers.get('content-type')).toBe('image/webp')
  expect(headers.get('content-disposition')).toBe(
    `inline; filename="${id!.slice(0, 8)}-out-0.webp"`,
  )
})

describe('an output', () => {
  test('is not sent again to a client that has it', async () => {
    const { get } = await generate()
    const { headers } = await get({})
    const [etag, modified] = [headers.get('etag')!, headers.get('last-modified')!]
    for (const condition of [
      { 'if-none-match': etag },
      { 'if-none-match': `"other", W/${etag}` },
      { 'if-none-match': '*' },
      { 'if-modified-since': modified },
    ])
      expect(await get(condition)).toMatchObject({ status: 304, text: '' })
    for (const condition of [
      { 'if-none-match': '"other"', 'if-modified-since': modified },
      { 'if-modified-since': 'Mon, 01 Jan 2024 00:00:00 GMT' },
      { 'if-modified-since': 'yesterday' },
    ])
      expect((await get(condition)).status).toBe(200)
  })

  test.each([
    ['bytes=0-3', 0, 4],
    ['bytes=4-', 4, undefined],
    ['bytes=-4', -4, undefined],
    ['bytes=2-99999', 2, undefined],
    ['Bytes=1-1', 1, 2],
  ])('has the range %s', async (range, start, end) => {
    const { get } = await generate()
    const reply = await get({ range })
    expect(reply.status).toBe(206)
    const size = Number(reply.headers.get('content-range')!.split('/')[1])
    expect(Number(reply.headers.get('content-length'))).toBe(
      (end ?? size) - (start < 0 ? size + start : start),
    )
  })

  test.each(['bytes=0-1,3-4', 'bytes=5-2', 'lines=1-2', 'bytes=-', 'nonsense'])(
    'is sent whole for %s',
    async (range) => {
      const { get, whole } = await generate()
      expect(await get({ range })).toMatchObject({ status: 200, text: whole })
    },
  )

  test('says its size where a range is beyond it', async () => {
    const { get } = await generate()
    for (const range of ['bytes=99999-', 'bytes=-0']) {
      const { status, headers } = await get({ range })
      expect([status, headers.get('content-range')]).toEqual([
        416,
        expect.stringMatching(/^bytes \*\/\d+$/),
      ])
    }
  })

  test('is sent whole where If-Range names another one', async () => {
    const { get } = await generate()
    const etag = (await get({})).headers.get('etag')!
    expect((await get({ range: 'bytes=0-1', 'if-range': etag })).status).toBe(206)
    expect((await get({ range: 'bytes=0-1', 'if-range': '"other"' })).status).toBe(200)
  })
})
