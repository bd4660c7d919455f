/** From a reference to a file: every kind of host, their refusals, and the log of a prediction. */
import { readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { describe, expect, onTestFinished, test } from 'vitest'
import { findBundledIn } from '../../src/loras/bundled.js'
import { createLoraCache } from '../../src/loras/loraCache.js'
import { startProxy, through } from '../net/proxyServer.js'
import { type Host, makeTar, makeWeights, sha256, startHost } from './hosts.js'
import { filesOf, makeFolder, setUp, tokens, writtenText } from './server.js'

const weights = makeWeights(50_000)
const digest = sha256(weights)

const dataUri = (tar: Buffer) => `data:application/x-tar;base64,${tar.toString('base64')}`

/** A Hugging Face repository with these files. */
function addRepo(host: Host, repo: string, files: Readonly<Record<string, Buffer>>) {
  host.on(`/api/models/${repo}/tree/main`, (_, response) => {
    const entries = Object.entries(files).map(([path, bytes]) => ({
      type: 'file',
      path,
      size: bytes.length,
      oid: 'f'.repeat(40),
    }))
    response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(entries))
  })
  for (const [path, bytes] of Object.entries(files)) {
    const url = `/${repo}/resolve/main/${encodeURI(path)}`
    host.on(url, ({ headers }, response) => {
      // A large file lies elsewhere; what the hub itself says of it is its sha256.
      if (headers.range === 'bytes=0-0')
        response
          .writeHead(206, {
            'content-range': `bytes 0-0/${bytes.length}`,
            etag: `"${sha256(bytes)}"`,
          })
          .end('x')
      else response.writeHead(302, { location: `/cdn/${path}?Signature=abc` }).end()
    })
    host.file(`/cdn/${encodeURI(path)}`, bytes)
  }
}

describe('weights come from', () => {
  test('a URL', async () => {
    const { host, acquire, lines } = await setUp()
    host.file('/a/lora.safetensors', weights, { etag: '"1"' })
    const url = `${host.origin}/a/lora.safetensors`
    const lora = await acquire(url)
    expect(lora).toMatchObject({ digest, source: 'network' })
    expect(lora.seconds).toBeGreaterThan(0)
    expect(readFileSync(lora.path)).toEqual(weights)
    expect(lines).toEqual([
      expect.stringMatching(/^free=\d+$/),
      'Downloading weights',
      `downloading weights from ${url}`,
      expect.stringMatching(/^Downloaded weights in \d+\.\d\ds$/),
    ])
  })

  test.each([
    ['o/r', 'huggingface.co/o/r'],
    ['o/r', 'https://huggingface.co/o/r/'],
  ])('the only .safetensors of the repository %s: %s', async (repo, reference) => {
    const { host, acquire, lines } = await setUp()
    addRepo(host, repo, { 'sub/my lora.safetensors': weights, 'README.md': Buffer.from('#') })
    const lora = await acquire(reference)
    expect(readFileSync(lora.path)).toEqual(weights)
    expect(lines).toEqual([
      expect.stringMatching(/^free=\d+$/),
      'Downloading weights',
      `Downloaded sub/my lora.safetensors from HuggingFace to ${lora.path}`,
      expect.stringMatching(/^Downloaded weights in/),
    ])
  })

  test('a file behind a proxy, which resolves the name of the configured host only', async () => {
    const host = await startHost()
    host.file('/a.safetensors', weights)
    const proxy = await startProxy()
    const origin = host.origin.replace('127.0.0.1', 'hub.invalid')
    const cache = createLoraCache(
      {
        dataDir: makeFolder(),
        hosts: {
          huggingFace: { url: origin, token: undefined },
          civitai: { url: origin, token: undefined },
          replicate: { url: origin, token: undefined },
        },
        allowedHosts: [],
        proxy: through(proxy.url),
        loras: { maxBytes: 2 ** 20, cacheBytes: 2 ** 24, minFreeBytes: 0 },
      },
      { retry: { attempts: 1, delayMs: 1, stallMs: 2000, timeoutMs: 9000, minBytesPerSecond: 0 } },
    )
    onTestFinished(() => cache.close())
    const acquire = (reference: string) =>
      cache.acquire(reference, { signal: new AbortController().signal, writeLine: () => {} })
    expect(await acquire(`${origin}/a.safetensors`)).toMatchObject({ digest })
    const other = origin.replace('hub.invalid', 'localhost')
    await expect(acquire(`${other}/a.safetensors`)).rejects.toThrow('but localhost is not one')
    expect(proxy.targets()).toEqual([origin.slice('http://'.length)])
  })

  test('the file that is named in a repository', async () => {
    const { host, acquire } = await setUp()
    addRepo(host, 'o/r', { 'a.safetensors': makeWeights(), 'b.safetensors': weights })
    expect(await acquire('huggingface.co/o/r/b.safetensors')).toMatchObject({ digest })
    expect(host.askedFor('/api/models/o/r/tree/main')).toEqual([])
  })

  test('a repository that keeps its files in Xet', async () => {
    const { host, acquire } = await setUp()
    const path = '/o/r/resolve/main/x.safetensors'
    host.on(path, ({ headers }, response) => {
      if (!headers.accept?.includes('xet-fileinfo'))
        response.writeHead(302, { location: '/bridge/x?Signature=abc' }).end()
      else
        response
          .writeHead(200, {
            'content-type': 'application/vnd.xet-fileinfo+json',
            'x-linked-size': weights.length,
            'x-linked-etag': `"${digest}"`,
            'x-xet-hash': 'f'.repeat(64),
            link: `<${host.origin}/auth>; rel="xet-auth", <${host.origin}/map>; rel="xet-reconstruction-info"`,
          })
          .end('{}')
    })
    host.file('/bridge/x', weights)
    expect(await acquire('huggingface.co/o/r/x.safetensors')).toMatchObject({ digest })
    expect(host.asked.map(({ url }) => url)).toEqual([path, path, '/bridge/x?Signature=abc'])
  })

  test('the newest version for Flux.1 of a CivitAI page', async () => {
    const { host, acquire, lines } = await setUp()
    const version = (baseModel: string, path: string, format = 'SafeTensor') => ({
      baseModel,
      files: [
        { type: 'Training Data', downloadUrl: `${host.origin}/no` },
        { type: 'Model', metadata: { format }, downloadUrl: `${host.origin}${path}` },
      ],
    })
    host.json('/api/v1/models/670378', {
      modelVersions: [
        version('SDXL 1.0', '/sdxl'),
        version('Flux.1 D', '/pickle', 'PickleTensor'),
        version('Flux.1 D', '/api/download/models/735262'),
        version('Flux.1 D', '/old'),
      ],
    })
    host.file('/api/download/models/735262', weights)
    const lora = await acquire('https://civitai.com/models/670378/flux-pixel-art')
    expect(lora.digest).toBe(digest)
    expect(lines[2]).toBe(`downloading weights from ${host.origin}/api/download/models/735262`)
  })

  test('a CivitAI download link', async () => {
    const { host, acquire, lines } = await setUp()
    host.file('/api/download/models/7', weights)
    const reference = 'https://civitai.com/api/download/models/7?type=Model&token=SECRET'
    expect(await acquire(reference)).toMatchObject({ digest })
    expect(host.asked[0]!.url).toBe('/api/download/models/7?type=Model&token=SECRET')
    expect(lines[2]).toBe(
      `downloading weights from ${host.origin}/api/download/models/7?type=Model&token=***`,
    )
  })

  test.each([
    ['fofr/flux', '/fofr/flux/_weights'],
    ['https://replicate.com/fofr/flux/', '/fofr/flux/_weights'],
    ['fofr/flux/2b6ba1', '/fofr/flux/versions/2b6ba1/_weights'],
    ['fofr/flux/versions/2b6ba1', '/fofr/flux/versions/2b6ba1/_weights'],
  ])('the tar of the Replicate model %s', async (reference, path) => {
    const { host, acquire, dataDir } = await setUp()
    const tar = await makeTar([
      ['output/flux_train_replicate/lora.safetensors', weights],
      ['output/flux_train_replicate/config.yaml', Buffer.from('rank: 16')],
    ])
    host.redirect(path, '/delivery/trained_model.tar')
    host.file('/delivery/trained_model.tar', tar)
    const lora = await acquire(reference)
    expect(readFileSync(lora.path)).toEqual(weights)
    expect(filesOf(dataDir, 'parts')).toEqual([])
  })

  test.each([
    ['plain', (tar: Buffer) => tar],
    ['compressed', gzipSync],
  ])('a %s tar in a data URI', async (_, compress) => {
    const { acquire, dataDir } = await setUp()
    const uri = dataUri(compress(await makeTar([['lora.safetensors', weights]])))
    expect(await acquire(uri)).toMatchObject({ digest, source: 'network' })
    expect(await acquire(uri)).toMatchObject({ digest, source: 'disk' })
    expect(filesOf(dataDir, 'parts')).toEqual([])
  })
})

test('the second time it is there already, and the log says nothing', async () => {
  const { host, acquire, lines } = await setUp()
  host.file('/lora.safetensors', weights)
  const url = `${host.origin}/lora.safetensors`
  const first = await acquire(url)
  lines.length = 0
  const second = await acquire(url)
  expect(second).toMatchObject({ path: first.path, digest, source: 'disk' })
  expect(lines).toEqual([])
  expect(host.asked).toHaveLength(1)
})

test('the same weights under two references are one file', async () => {
  const { host, acquire, dataDir } = await setUp()
  host.file('/a.safetensors', weights)
  host.file('/b.safetensors', weights)
  const a = await acquire(`${host.origin}/a.safetensors`)
  const { ino } = statSync(a.path)
  const b = await acquire(`${host.origin}/b.safetensors`)
  expect(b.path).toBe(a.path)
  expect(statSync(b.path).ino).toBe(ino)
  expect(filesOf(dataDir, 'blobs')).toEqual([`${digest}.safetensors`])
})

describe('ten predictions that want the same', () => {
  test('share one download, whose lines and progress each receives', async () => {
    const { host, cache } = await setUp()
    host.file('/lora.safetensors', weights, { pauseMs: 20 })
    const logs = Array.from({ length: 10 }, (): string[] => [])
    const loras = await Promise.all(
      logs.map((lines) =>
        cache.acquire(`${host.origin}/lora.safetensors`, {
          signal: new AbortController().signal,
          writeLine: (line) => void lines.push(line),
        }),
      ),
    )
    expect(host.asked).toHaveLength(1)
    expect(new Set(loras.map(({ path }) => path)).size).toBe(1)
    for (const lines of logs) expect(lines).toEqual(logs[0])
    expect(logs[0]).toHaveLength(4)
  })

  test('go on when one of them is canceled, and stop when all are', async () => {
    const { host, cache, acquire } = await setUp()
    host.file('/lora.safetensors', weights, { etag: '"1"', pauseMs: 30 })
    const url = `${host.origin}/lora.safetensors`
    const [one, other] = [new AbortController(), new AbortController()]
    const first = acquire(url, one.signal)
    const second = acquire(url, other.signal)
    const third = acquire(url)
    first.catch(() => {})
    second.catch(() => {})
    await expect.poll(() => host.asked.length).toBe(1)
    one.abort()
    await expect(first).rejects.toMatchObject({ code: 'canceled' })
    expect((await third).digest).toBe(digest)
    other.abort()
    await expect(second).resolves.toMatchObject({ digest })
    expect(host.asked).toHaveLength(1)

    let closed = false
    host.on('/slow.safetensors', (_, response) => {
      response.on('close', () => {
        closed = true
      })
      response.writeHead(200, { 'content-length': '5000' }).write('x')
    })
    const last = new AbortController()
    const slow = cache.acquire(`${host.origin}/slow.safetensors`, {
      signal: last.signal,
      writeLine: () => {},
    })
    slow.catch(() => {})
    await expect.poll(() => host.askedFor('/slow.safetensors').length).toBe(1)
    last.abort()
    await expect(slow).rejects.toMatchObject({ code: 'canceled' })
    await expect.poll(() => closed).toBe(true)
  })

  test('do nothing for one that is canceled already', async () => {
    const { host, acquire } = await setUp()
    host.file('/lora.safetensors', weights)
    const url = `${host.origin}/lora.safetensors`
    await expect(acquire(url, AbortSignal.abort())).rejects.toMatchObject({ code: 'canceled' })
    expect(host.asked).toEqual([])
  })

  test('do not share a download that was aborted for lack of waiters', async () => {
    const { host, acquire } = await setUp()
    host.file('/lora.safetensors', weights, {
      etag: '"1"',
      faults: [{ kind: 'stall', after: 1000 }],
    })
    const url = `${host.origin}/lora.safetensors`
    const canceling = new AbortController()
    const first = acquire(url, canceling.signal)
    first.catch(() => {})
    await expect.poll(() => host.asked.length).toBe(1)
    canceling.abort()
    const second = acquire(url)
    await expect(first).rejects.toMatchObject({ code: 'canceled' })
    expect(readFileSync((await second).path)).toEqual(weights)
  })
})

describe('a host that refuses', () => {
  const authorization =
    'Authorization to download weights failed. Please check to see if an API key is needed and if so pass in with the URL.'
  const notFound = 'Weights not found at the supplied URL. Please check the URL.'
  const notOnCivitai =
    'Model not found on CivitAI at that URL. Double check the CivitAI model ID; the id on the download link can be different than the id to browse to the model page.'
  const restricted =
    'Failed to download from HuggingFace: Access to o/r is restricted: accept its licence at https://huggingface.co/o/r and set FLUXD_HF_TOKEN to a token of that account'
  const unknown =
    'Failed to download from HuggingFace: o/r does not exist, or is private or gated: see https://huggingface.co/o/r, and set FLUXD_HF_TOKEN if it needs a token'

  test.each([
    ['/x.safetensors', 401, authorization],
    ['/x.safetensors', 404, notFound],
    [
      '/x.safetensors',
      403,
      'Failed to download safetensors file: the server answered with status 403',
    ],
    [
      '/x.safetensors',
      500,
      'Failed to download safetensors file: the server answered with status 500',
    ],
    ['civitai.com/models/1', 401, authorization],
    ['civitai.com/models/1', 404, notOnCivitai],
    ['https://civitai.com/api/download/models/1', 401, authorization],
    ['https://civitai.com/api/download/models/1', 404, notOnCivitai],
    ['o/r', 401, authorization],
    ['o/r', 404, notFound],
    ['o/r', 403, 'Failed to download tarball: the server answered with status 403'],
    ['huggingface.co/o/r', 401, unknown],
    ['huggingface.co/o/r', 403, restricted],
    ['huggingface.co/o/r/x.safetensors', 401, unknown],
    ['huggingface.co/o/r/x.safetensors', 403, restricted],
  ])(
    '%s with status %i is told so in the words of the contract',
    async (place, status, message) => {
      const { host, acquire } = await setUp()
      const refuse: Parameters<Host['on']>[1] = (_, response) => response.writeHead(status).end()
      for (const path of [
        '/x.safetensors',
        '/api/v1/models/1',
        '/api/download/models/1',
        '/o/r/_weights',
        '/api/models/o/r/tree/main',
        '/o/r/resolve/main/x.safetensors',
      ])
        host.on(path, refuse)
      await expect(
        acquire(place.startsWith('/') ? host.origin + place : place),
      ).rejects.toMatchObject({
        code: 'lora_invalid',
        message,
      })
    },
  )

  test('a gated repository is refused with the page of its licence', async () => {
    const { host, acquire } = await setUp()
    host.json('/api/models/o/r/tree/main', { error: 'gated' }, 401, { 'x-error-code': 'GatedRepo' })
    await expect(acquire('huggingface.co/o/r')).rejects.toThrow(restricted)
  })

  test('a file that is not in the repository is refused by name', async () => {
    const { host, acquire } = await setUp()
    host.json('/o/r/resolve/main/x.safetensors', {}, 404, { 'x-error-code': 'EntryNotFound' })
    await expect(acquire('huggingface.co/o/r/x.safetensors')).rejects.toThrow(
      'Failed to download from HuggingFace: There is no x.safetensors in o/r',
    )
  })

  test.each([
    [{}, '[]'],
    [
      { 'a.safetensors': weights, 'b/c.safetensors': weights },
      "['a.safetensors', 'b/c.safetensors']",
    ],
  ])(
    'a repository without a single .safetensors (%#) is told what was found',
    async (files, found) => {
      const { host, acquire } = await setUp()
      addRepo(host, 'o/r', files as Record<string, Buffer>)
      await expect(acquire('huggingface.co/o/r')).rejects.toThrow(
        `Failed to download from HuggingFace: No *.safetensors file was explicitly specified from the HuggingFace repo o/r and more than one *.safetensors file was found. Found: ${found}`,
      )
    },
  )

  test.each([
    ['tarball', [['a.txt', weights]], 'No .safetensors file found in tarball'],
    [
      'tarball',
      [
        ['a.safetensors', weights],
        ['b.safetensors', weights],
      ],
      'Multiple .safetensors files found in tarball',
    ],
    ['data', [['a.txt', weights]], 'No .safetensors file found in data URI'],
    [
      'data',
      [
        ['a.safetensors', weights],
        ['b.safetensors', weights],
      ],
      'Multiple .safetensors files found in data URI',
    ],
  ] as const)('a %s is refused and leaves nothing (%#)', async (kind, entries, message) => {
    const { host, acquire, dataDir } = await setUp()
    const tar = await makeTar(entries)
    host.file('/o/r/_weights', tar)
    const reference = kind === 'data' ? dataUri(tar) : 'o/r'
    await expect(acquire(reference)).rejects.toMatchObject({ code: 'lora_invalid', message })
    expect(filesOf(dataDir, 'parts')).toEqual([])
  })

  test.each([
    ['http://10.0.0.1/x.safetensors'],
    ['http://169.254.169.254/x.safetensors'],
    ['http://[::1]:1/x.safetensors'],
  ])('an address that is not public is not asked: %s', async (reference) => {
    const { acquire } = await setUp()
    await expect(acquire(reference)).rejects.toThrow(
      /^Failed to download safetensors file: Expected the URL of a public server but .* is not one$/,
    )
  })

  test('and one that redirects there is refused', async () => {
    const { host, acquire } = await setUp()
    host.redirect('/x.safetensors', 'http://10.0.0.1/x.safetensors')
    await expect(acquire(`${host.origin}/x.safetensors`)).rejects.toThrow(
      'Failed to download safetensors file: Expected the URL of a public server but 10.0.0.1 is not one',
    )
  })

  test('a data URI without data is refused, quoting its head only', async () => {
    const { acquire } = await setUp()
    await expect(acquire(`data:${'x'.repeat(100)}SECRET`)).rejects.toMatchObject({
      code: 'lora_invalid',
      message: expect.stringMatching(
        /^Expected a comma and data in the data URI but received data:x+…$/,
      ),
    })
  })

  test('redirecting in circles is an error', async () => {
    const { host, acquire } = await setUp()
    host.redirect('/x.safetensors', '/y.safetensors')
    host.redirect('/y.safetensors', '/x.safetensors')
    await expect(acquire(`${host.origin}/x.safetensors`)).rejects.toThrow(
      /^Failed to download safetensors file: Expected at most 5 redirects/,
    )
  })

  test('breaking off every time is an error', async () => {
    const { host, acquire } = await setUp()
    const fault = { kind: 'cut', after: 100 } as const
    host.file('/x.safetensors', weights, { faults: [fault, fault] })
    await expect(acquire(`${host.origin}/x.safetensors`)).rejects.toThrow(
      /^Failed to download safetensors file: ./,
    )
  })
})

describe('what is no LoRA is not let in', () => {
  test.each([
    ['a web page', Buffer.from('<!DOCTYPE html><html><body>log in</body></html>'), 'a web page'],
    ['an error', Buffer.from('{"error":"not today"}'), 'a JSON text'],
    ['a pickle', Buffer.from('\x80\x02}q\x00(X\x05\x00', 'latin1'), 'a Python pickle'],
    ['a zipped pickle', Buffer.from('PK\x03\x04archive/data.pkl', 'latin1'), 'a Python pickle'],
    ['a GGUF file', Buffer.from('GGUF\x03\0\0\0\0\0\0\0'), 'a GGUF file'],
    ['a gzip file', gzipSync('x'.repeat(100)), 'an archive'],
    ['a pointer', Buffer.from('version https://git-lfs.github.com/spec/v1'), 'a Git LFS pointer'],
    ['nothing', Buffer.alloc(0), 'only 0 bytes long'],
    ['noise', Buffer.alloc(100, 0xee), 'something else: its header would have'],
  ])('%s', async (_, bytes, kind) => {
    const { host, acquire, dataDir } = await setUp()
    host.file('/x.safetensors', bytes)
    const url = `${host.origin}/x.safetensors`
    await expect(acquire(url)).rejects.toMatchObject({
      code: 'lora_invalid',
      message: expect.stringContaining(`Expected a safetensors file at ${url} but it is ${kind}`),
    })
    for (const folder of ['parts', 'blobs'] as const) expect(filesOf(dataDir, folder)).toEqual([])
  })

  test('a damaged file, without a word about where it lay', async () => {
    const { host, acquire, dataDir } = await setUp()
    host.file('/x.safetensors', weights.subarray(0, 1000))
    const failure = acquire(`${host.origin}/x.safetensors?sig=SECRET`)
    await expect(failure).rejects.toThrow(`${host.origin}/x.safetensors?sig=***: tensor`)
    await expect(failure).rejects.not.toThrow(dataDir)
  })

  test('a file that is too large', async () => {
    const { host, acquire } = await setUp({ maxBytes: 49_999 })
    host.file('/x.safetensors', weights)
    await expect(acquire(`${host.origin}/x.safetensors`)).rejects.toThrow(
      'Expected a file of at most 49999 bytes but it is larger',
    )
  })

  test('a file that is not the one that the hub promised', async () => {
    const { host, acquire } = await setUp()
    addRepo(host, 'o/r', { 'a.safetensors': weights })
    host.file('/cdn/a.safetensors', makeWeights())
    await expect(acquire('huggingface.co/o/r')).rejects.toThrow(
      `Failed to download from HuggingFace: Expected a file with the sha256 ${digest} but received `,
    )
  })
})

describe('a token', () => {
  test('of Hugging Face goes there, not to where it sends us', async () => {
    const { host, acquire } = await setUp()
    const cdn = await startHost()
    cdn.file('/a.safetensors', weights)
    cdn.json('/page2', [])
    host.json('/api/models/o/r/tree/main', [{ type: 'file', path: 'a.safetensors' }], 200, {
      link: `<${cdn.origin}/page2>; rel="next"`,
    })
    host.redirect('/o/r/resolve/main/a.safetensors', `${cdn.origin}/a.safetensors`)
    cdn.on('/a.safetensors', ({ headers }, response) => {
      if (headers.range === 'bytes=0-0')
        response.writeHead(206, { 'content-range': 'bytes 0-0/9', etag: '"1"' }).end('x')
      else response.end(weights)
    })
    expect((await acquire('huggingface.co/o/r')).digest).toBe(digest)
    const bearer = `Bearer ${tokens.huggingFace}`
    expect(host.asked.map(({ headers }) => headers.authorization)).toEqual([bearer, bearer, bearer])
    expect(cdn.asked.map(({ url, headers }) => [url, headers.authorization])).toEqual([
      ['/page2', undefined],
      ['/a.safetensors', undefined],
      ['/a.safetensors', undefined],
    ])
  })

  test('of CivitAI goes there, not to where it sends us; Replicate gets none', async () => {
    const { host, acquire } = await setUp()
    const cdn = await startHost()
    cdn.file('/a', weights)
    const files = [
      { type: 'Model', metadata: { format: 'SafeTensor' }, downloadUrl: `${cdn.origin}/a` },
    ]
    host.json('/api/v1/models/1', { modelVersions: [{ files }] })
    host.redirect('/api/download/models/2', `${cdn.origin}/a`)
    await acquire('civitai.com/models/1')
    await acquire('https://civitai.com/api/download/models/2')
    await acquire('o/m').catch(() => {})
    const bearer = `Bearer ${tokens.civitai}`
    expect(host.asked.map(({ headers }) => headers.authorization)).toEqual([
      bearer,
      bearer,
      undefined,
    ])
    expect(cdn.asked.map(({ headers }) => headers.authorization)).toEqual([undefined, undefined])
  })

  test('is in no log line, no error and no file', async () => {
    const { host, acquire, lines, dataDir } = await setUp()
    addRepo(host, 'o/r', { 'a.safetensors': weights })
    host.json('/api/v1/models/1', {
      modelVersions: [
        {
          files: [
            {
              type: 'Model',
              metadata: { format: 'SafeTensor' },
              downloadUrl: `${host.origin}/c?key=SECRET`,
            },
          ],
        },
      ],
    })
    host.file('/c', makeWeights())
    host.file('/ok.safetensors', makeWeights())
    host.file('/bad.safetensors', Buffer.from('<html>'.repeat(10)))
    host.redirect('/away.safetensors', 'http://10.0.0.1/?token=SECRET')
    const errors: string[] = []
    for (const reference of [
      'huggingface.co/o/r',
      'civitai.com/models/1',
      `${host.origin}/ok.safetensors?token=SECRET`,
      `${host.origin}/bad.safetensors?X-Amz-Signature=SECRET`,
      `${host.origin}/gone.safetensors?token=SECRET`,
      `${host.origin}/away.safetensors?token=SECRET`,
      'https://civitai.com/api/download/models/9?token=SECRET',
      'http://user:SECRET@127.0.0.1/a.safetensors',
      'http://10.0.0.1/a.safetensors?token=SECRET',
      'https://civitai.com/models/1?token=SECRET',
    ])
      await acquire(reference).catch((error: Error) =>
        errors.push(`${error.message} ${error.stack}`),
      )
    expect(errors).toHaveLength(7)
    expect(lines.length).toBeGreaterThan(15)
    expect(writtenText(dataDir)).toContain('token=***')
    for (const text of [...lines, ...errors, writtenText(dataDir)])
      expect(text).not.toContain('SECRET')
  })
})

describe('names', () => {
  const options = { signal: new AbortController().signal, writeLine: () => {} }

  test('a name goes before what a reference would mean', async () => {
    const { host, cache, acquire, lines } = await setUp()
    host.file('/a.safetensors', weights)
    await cache.add('fofr/flux', `${host.origin}/a.safetensors`, options)
    await cache.add('watercolour', `${host.origin}/a.safetensors`, options)
    expect(host.asked).toHaveLength(1)
    for (const name of ['fofr/flux', 'watercolour']) {
      const lora = await acquire(name)
      expect(lora).toMatchObject({ digest, source: 'disk' })
      expect(await cache.find(name)).toBe(lora.path)
    }
    expect(lines).toEqual([])
  })

  test('what comes with fluxd goes before Replicate', async () => {
    const folder = new URL('../../models/tiny/loras', import.meta.url).pathname
    const { acquire, cache, lines } = await setUp({}, { findBundled: findBundledIn(folder) })
    const lora = await acquire('fofr/shxdo-v2')
    expect(lora).toMatchObject({ path: `${folder}/fofr--shxdo-v2.safetensors`, source: 'disk' })
    expect(lora.digest).toBe(sha256(readFileSync(lora.path)))
    expect(await cache.find('fofr/shxdo-v2')).toBe(lora.path)
    expect(await cache.find('fofr/nothing')).toBeUndefined()
    expect(await cache.find('../fofr--shxdo-v2')).toBeUndefined()
    expect(lines).toEqual([])
  })

  test('another name may be given to what has one or comes with fluxd', async () => {
    const folder = new URL('../../models/tiny/loras', import.meta.url).pathname
    const { host, acquire, cache } = await setUp({}, { findBundled: findBundledIn(folder) })
    host.file('/a.safetensors', weights)
    await cache.add('watercolour', `${host.origin}/a.safetensors`, options)
    await cache.add('copy', 'watercolour', options)
    await cache.remove('watercolour')
    expect(await acquire('copy')).toMatchObject({ digest, source: 'disk' })
    await cache.add('mine', 'fofr/shxdo-v2', options)
    const [mine, builtin] = [await acquire('mine'), await acquire('fofr/shxdo-v2')]
    expect(mine.digest).toBe(builtin.digest)
    expect(mine.path).toMatch(/blobs/)
    expect(host.asked).toHaveLength(1)
  })

  test('an operator’s file has the digest of its content at the time', async () => {
    const { cache, dataDir } = await setUp()
    const path = join(dataDir, 'own.safetensors')
    await expect(cache.open(path)).rejects.toMatchObject({
      code: 'lora_invalid',
      message: 'Expected own.safetensors to be a file that can be read (ENOENT)',
    })
    writeFileSync(path, weights)
    expect(await cache.open(path)).toMatchObject({ path, digest, source: 'disk' })
    const other = makeWeights(8000)
    writeFileSync(path, other)
    expect(await cache.open(path)).toMatchObject({ path, digest: sha256(other) })
    await expect(cache.open(dataDir)).rejects.toThrow(/ to be a file that can be read \(EISDIR\)$/)
  })

  test('a file of this machine gets a name, and its copy stays when it goes', async () => {
    const { cache, acquire, dataDir } = await setUp()
    const path = new URL('../fixtures/lora/lora_peft.safetensors', import.meta.url).pathname
    await cache.addFile('peft', path)
    const lora = await acquire('peft')
    expect(lora.digest).toBe(sha256(readFileSync(path)))
    expect(lora.path).toMatch(/blobs/)
    expect(filesOf(dataDir, 'parts')).toEqual([])
    await expect(cache.addFile('test', import.meta.filename)).rejects.toThrow(
      `Expected a safetensors file at ${import.meta.filename} but it is`,
    )
    expect(filesOf(dataDir, 'parts')).toEqual([])
  })

  test('removing a name removes the file, unless another name leads to it or it is in use', async () => {
    const { host, cache, acquire, dataDir } = await setUp()
    host.file('/a.safetensors', weights)
    await cache.add('one', `${host.origin}/a.safetensors`, options)
    await cache.add('two', `${host.origin}/a.safetensors`, options)
    await cache.remove('one')
    const lora = await acquire('two')
    await cache.remove('two')
    expect(filesOf(dataDir, 'blobs')).toHaveLength(1)
    lora.release()
    await cache.addFile('three', lora.path)
    await cache.remove('three')
    expect(filesOf(dataDir, 'blobs')).toEqual([])
    await expect(cache.remove('three')).rejects.toMatchObject({
      code: 'not_found',
      message: 'There is no LoRA named three',
    })
  })

  test('the list shows names first, then what predictions brought, without secrets', async () => {
    const { host, cache, acquire } = await setUp()
    host.file('/a.safetensors', weights)
    host.file('/b.safetensors', makeWeights())
    await cache.add('zebra', `${host.origin}/a.safetensors?token=SECRET`, options)
    await cache.addFile(
      'ant',
      new URL('../fixtures/lora/lora_peft.safetensors', import.meta.url).pathname,
    )
    const lora = await acquire(`${host.origin}/b.safetensors`)
    expect(await cache.list()).toMatchObject([
      { name: 'ant', inUse: false },
      {
        name: 'zebra',
        digest,
        bytes: weights.length,
        source: `${host.origin}/a.safetensors?token=***`,
      },
      { name: undefined, digest: lora.digest, inUse: true },
    ])
  })

  test.each(['', 'a/b/c', '../a', 'a/..', '/a', 'a b', 'a\0', 'x'.repeat(65)])(
    '%j is no name',
    async (name) => {
      const { cache } = await setUp()
      await expect(cache.add(name, 'fofr/flux', options)).rejects.toMatchObject({
        code: 'invalid_input',
        message: expect.stringMatching(/^Expected a name such as watercolour/),
      })
    },
  )
})
