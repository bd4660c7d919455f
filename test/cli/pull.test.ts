import { createHash } from 'node:crypto'
import {
  existsSync,
  readdirSync,
  readFileSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { PassThrough } from 'node:stream'
import { describe, expect, onTestFinished, test } from 'vitest'
import { type PullFlags, pullModel } from '../../src/cli/pull.js'
import { readConfig } from '../../src/config/config.js'
import type { ProxySettings } from '../../src/net/proxy.js'
import { checkpoints, makeFolder } from '../catalog/folders.js'
import { type FileOptions, startHost } from '../loras/hosts.js'
import { startProxy, through } from '../net/proxyServer.js'

const commit = 'c0ffee'.padEnd(40, '0')
const name = 'black-forest-labs/FLUX.1-dev'
const weights = 'transformer/diffusion_pytorch_model.safetensors'
const weightBytes = statSync(join(checkpoints.dev, weights)).size
const token = 'hf_SECRET'

const hashOf = (algorithm: string, ...parts: (string | Buffer)[]) =>
  parts.reduce((hash, part) => hash.update(part), createHash(algorithm)).digest('hex')

/** The hub's entry for a file: large ones are in LFS. */
function listEntry(path: string, bytes: Buffer) {
  const entry = { type: 'file', path, size: bytes.length }
  const oid = hashOf('sha1', `blob ${bytes.length}\0`, bytes)
  return bytes.length > 10_000
    ? { ...entry, oid: '0'.repeat(40), lfs: { oid: hashOf('sha256', bytes), size: bytes.length } }
    : { ...entry, oid }
}

/** A hub with the embedded checkpoint as a repository, and the other files of such repositories. */
async function startHub(faults: Readonly<Record<string, FileOptions>> = {}, repo = name) {
  const [hub, storage] = [await startHost(), await startHost()]
  const files = new Map<string, Buffer>()
  for (const path of readdirSync(checkpoints.dev, { recursive: true, encoding: 'utf8' }))
    if (statSync(join(checkpoints.dev, path)).isFile())
      files.set(path, readFileSync(join(checkpoints.dev, path)))
  for (const path of [
    'README.md',
    'LICENSE.md',
    'flux1-dev.safetensors',
    'vae/model.fp16.safetensors',
  ])
    files.set(path, Buffer.from(`what ${path} holds`))

  const entries = [...files].map(([path, bytes]) => listEntry(path, bytes))
  const folders = [...new Set([...files.keys()].map(dirname))].map((path) => ({
    type: 'directory',
    path,
    oid: 'd'.repeat(40),
    size: 0,
  }))
  const tree = `/api/models/${repo}/tree/${commit}`
  hub.json(`/api/models/${repo}/revision/main`, { id: repo, sha: commit })
  const next = { link: `<${hub.origin}${tree}/2>; rel="next"` }
  hub.json(tree, [...folders, ...entries.slice(0, 10)], 200, next)
  hub.json(`${tree}/2`, entries.slice(10))
  for (const [path, bytes] of files) {
    hub.redirect(`/${repo}/resolve/${commit}/${path}`, `${storage.origin}/${path}?signature=1`)
    storage.file(`/${path}`, bytes, { etag: `"${hashOf('sha256', bytes)}"`, ...faults[path] })
  }
  return { hub, storage, files, tree, entries }
}

type Hub = Awaited<ReturnType<typeof startHub>>

function prepare(
  { hub }: Pick<Hub, 'hub'>,
  dataDir = makeFolder(),
  hasToken = true,
  proxy?: ProxySettings,
) {
  const [stdout, stderr] = [new PassThrough(), new PassThrough()]
  const canceling = new AbortController()
  const host = {
    url: hub.origin,
    token: hasToken ? { reveal: () => token, toJSON: () => '***' } : undefined,
  }
  const pull = (reference: string, flags: PullFlags = {}) =>
    pullModel(reference, flags, {
      config: {
        dataDir,
        hosts: { huggingFace: host, civitai: host, replicate: host },
        ...(proxy && { proxy }),
      },
      signal: canceling.signal,
      stdout,
      stderr: stderr as unknown as NodeJS.WriteStream,
      retry: { attempts: 2, delayMs: 5, stallMs: 500, timeoutMs: 10_000, minBytesPerSecond: 0 },
    })
  const read = (stream: PassThrough) => String(stream.read() ?? '')
  return { dataDir, pull, canceling, printed: () => read(stdout), shown: () => read(stderr) }
}

const filesOf = (folder: string) =>
  readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((path) => statSync(join(folder, path)).isFile())
    .sort()

const embedded = [...filesOf(checkpoints.dev), 'LICENSE.md'].sort()

/** Comparing them as values takes seconds. */
function expectFiles(folder: string, { files }: Hub) {
  expect(filesOf(folder)).toEqual(embedded)
  const differing = embedded.filter(
    (path) => !readFileSync(join(folder, path)).equals(files.get(path)!),
  )
  expect(differing).toEqual([])
}

describe('fluxd pull', () => {
  test('brings the diffusers checkpoint and its licence, and nothing twice', async () => {
    const hub = await startHub()
    const { pull, dataDir, printed, shown } = prepare(hub)
    await pull('dev')
    const folder = join(dataDir, 'models/black-forest-labs--FLUX.1-dev')
    expectFiles(folder, hub)
    expect(readdirSync(dirname(folder))).toEqual(['black-forest-labs--FLUX.1-dev'])
    expect(printed()).toBe(
      'fluxd serves it as model dev from its next start, unless FLUXD_CHECKPOINT_DEV names another:\n' +
        `FLUXD_CHECKPOINT_DEV=${folder}\n`,
    )
    const { checkpoints } = readConfig({ FLUXD_DATA_DIR: dataDir }, existsSync)
    expect(checkpoints.dev).toBe(folder)
    const lines = shown().trimEnd().split('\n')
    expect(lines[0]).toBe(`${name} at c0ffee000000: ${embedded.length} files, 4.1 MB`)
    expect(
      lines
        .slice(1)
        .map((line) => line.split(':')[0])
        .sort(),
    ).toEqual(embedded)
  })

  test('sends its token to the hub only', async () => {
    const hub = await startHub()
    await prepare(hub).pull('dev')
    const tokensAt = (asked: Hub['hub']['asked']) =>
      new Set(asked.map(({ headers }) => headers.authorization))
    expect(tokensAt(hub.hub.asked)).toEqual(new Set([`Bearer ${token}`]))
    expect(tokensAt(hub.storage.asked)).toEqual(new Set([undefined]))
  })

  test('puts any repository where --to says and prints how to serve it', async () => {
    const hub = await startHub({}, 'someone/flux-mine')
    const { pull, printed } = prepare(hub)
    const folder = join(makeFolder(), 'mine')
    await pull('someone/flux-mine', { to: folder })
    expect(filesOf(folder)).toEqual(embedded)
    expect(printed()).toBe(`to serve it as model dev, set\nFLUXD_CHECKPOINT_DEV=${folder}\n`)
  })

  test('asks for the revision behind @', async () => {
    const hub = await startHub()
    hub.hub.json(`/api/models/${name}/revision/refs%2Fpr%2F1`, { sha: commit })
    const { pull, dataDir } = prepare(hub)
    await pull('dev@refs/pr/1')
    expect(existsSync(join(dataDir, 'models/black-forest-labs--FLUX.1-dev'))).toBe(true)
  })

  test('fetches nothing that is there already', async () => {
    const hub = await startHub()
    const { pull, printed } = prepare(hub)
    await pull('dev')
    const { length } = hub.hub.asked
    printed()
    await pull('dev')
    expect(printed()).toMatch(/is there already; remove it to pull .* again\n/)
    expect(hub.hub.asked).toHaveLength(length)
  })

  test.each(['flux', '../dev', 'a/b/c', '', 'a/..', '.a/b', 'dev@', 'dev@a b', 'https://x.y/a/b'])(
    'refuses %j',
    async (reference) => {
      const hub = await startHub()
      await expect(prepare(hub).pull(reference)).rejects.toThrow(
        'Expected dev, schnell or OWNER/NAME',
      )
    },
  )
})

test('of two pulls into one folder the second is refused', async () => {
  const hub = await startHub()
  const { pull, dataDir } = prepare(hub)
  const ends = await Promise.allSettled([pull('dev'), prepare(hub, dataDir).pull('dev')])
  const folder = join(dataDir, 'models/black-forest-labs--FLUX.1-dev')
  expect(ends.flatMap((end) => (end.status === 'rejected' ? [end.reason.message] : []))).toEqual([
    `Expected to be the only pull into ${folder}.partial but there is another one`,
  ])
  expectFiles(folder, hub)
})

describe('an interrupted pull', () => {
  const rangesOf = ({ storage }: Hub) =>
    storage.askedFor(`/${weights}`).map(({ headers }) => headers.range)

  test('goes through a proxy', async () => {
    const hub = await startHub()
    const proxy = await startProxy()
    const { pull, dataDir } = prepare(hub, makeFolder(), true, through(proxy.url))
    await pull('dev')
    expectFiles(join(dataDir, 'models/black-forest-labs--FLUX.1-dev'), hub)
    for (const { origin } of [hub.hub, hub.storage])
      expect(proxy.targets()).toContain(origin.slice('http://'.length))
  })

  test('goes on where the connection broke off', async () => {
    const hub = await startHub({ [weights]: { faults: [{ kind: 'cut', after: 200_000 }] } })
    const { pull, dataDir } = prepare(hub)
    await pull('dev')
    const [first, second, ...others] = rangesOf(hub)
    expect([first, others]).toEqual([undefined, []])
    expect(Number(/^bytes=(\d+)-$/.exec(second!)![1])).toBeGreaterThan(100_000)
    expect(filesOf(join(dataDir, 'models/black-forest-labs--FLUX.1-dev'))).toEqual(embedded)
  })

  test('goes on in another process after it was given up', async () => {
    const cut = { kind: 'cut', after: 100_000 } as const
    const hub = await startHub({ [weights]: { faults: [cut, cut] } })
    const { pull, dataDir } = prepare(hub)
    await expect(pull('dev')).rejects.toThrow(`${weights}: `)
    const partial = join(dataDir, 'models/black-forest-labs--FLUX.1-dev.partial')
    const { size } = statSync(join(partial, `${weights}.part`))
    expect(size).toBeGreaterThan(100_000)
    expect(readdirSync(join(dataDir, 'models'))).toEqual(['black-forest-labs--FLUX.1-dev.partial'])

    const { length } = hub.storage.asked
    await prepare(hub, dataDir).pull('dev')
    const ranges = rangesOf(hub)
    expect(ranges.at(-1)).toBe(`bytes=${size}-`)
    // One request to see that access is granted; all the other files were there.
    const later = new Set(hub.storage.asked.slice(length + 1).map(({ url }) => url.split('?')[0]))
    expect(later).toContain(`/${weights}`)
    expect(later).not.toContain('/model_index.json')
    expect(filesOf(join(dataDir, 'models/black-forest-labs--FLUX.1-dev'))).toEqual(embedded)
  })

  test('by Ctrl-C keeps what came and says how to go on', async () => {
    const hub = await startHub({ [weights]: { pauseMs: 20 } })
    const { pull, dataDir, canceling } = prepare(hub)
    const part = join(dataDir, 'models/black-forest-labs--FLUX.1-dev.partial', `${weights}.part`)
    const poll = setInterval(() => {
      if (existsSync(part) && statSync(part).size > 0) canceling.abort()
    }, 5)
    onTestFinished(() => clearInterval(poll))
    await expect(pull('dev')).rejects.toMatchObject({
      code: 'canceled',
      message: 'The pull was canceled; the same command goes on with it',
    })
    const { size } = statSync(part)
    expect(size).toBeGreaterThan(0)
    expect(size).toBeLessThan(weightBytes)
    await prepare(hub, dataDir).pull('dev')
    expect(rangesOf(hub)).toEqual([undefined, `bytes=${size}-`])
  })

  test('takes nothing for granted that lies there', async () => {
    const cut = { kind: 'cut', after: 100_000 } as const
    const hub = await startHub({ [weights]: { faults: [cut, cut] } })
    const { pull, dataDir } = prepare(hub)
    await expect(pull('dev')).rejects.toThrow()
    const partial = join(dataDir, 'models/black-forest-labs--FLUX.1-dev.partial')
    truncateSync(join(partial, 'vae/diffusion_pytorch_model.safetensors'), 1000)
    const config = join(partial, 'vae/config.json')
    writeFileSync(config, readFileSync(config, 'utf8').replace('{', '['))
    await prepare(hub, dataDir).pull('dev')
    expectFiles(partial.replace('.partial', ''), hub)
  })
})

describe('a pull that cannot be', () => {
  const deny = async (status: number, headers = {}, hasToken = true) => {
    const hub = await startHub()
    for (const path of hub.files.keys())
      hub.hub.json(`/${name}/resolve/${commit}/${path}`, {}, status, headers)
    const { pull, dataDir } = prepare(hub, makeFolder(), hasToken)
    return { hub, dataDir, refusal: pull('dev') }
  }

  test('of a gated repository says where its licence is and how to set the token', async () => {
    const { hub, refusal, dataDir } = await deny(401, { 'x-error-code': 'GatedRepo' }, false)
    await expect(refusal).rejects.toMatchObject({
      code: 'forbidden',
      message:
        `Access to ${name} is restricted: accept its licence at ${hub.hub.origin}/${name}, ` +
        `make a token at ${hub.hub.origin}/settings/tokens and set FLUXD_HF_TOKEN to it`,
    })
    expect(filesOf(join(dataDir, 'models'))).toEqual([
      'black-forest-labs--FLUX.1-dev.partial/.lock',
    ])
  })

  test('with a token of an account without access says so', async () => {
    const { refusal } = await deny(403)
    await expect(refusal).rejects.toThrow(
      /accept its licence at .* with the account of FLUXD_HF_TOKEN, and let/,
    )
  })

  test('of what is not there, or not for this user, says so', async () => {
    const hub = await startHub()
    const { pull } = prepare(hub)
    await expect(pull('nobody/nothing')).rejects.toMatchObject({ code: 'not_found' })
    await expect(pull('dev@v9')).rejects.toThrow(
      `There is no ${name} at ${hub.hub.origin} with that`,
    )
    hub.hub.json('/api/models/a/b/revision/main', {}, 401)
    await expect(pull('a/b')).rejects.toThrow('or it is private: then set FLUXD_HF_TOKEN')
  })

  test('of a hub that cannot be reached says so', async () => {
    const reachable = await startHub()
    const origin = 'http://127.0.0.1:1'
    const { pull } = prepare({ ...reachable, hub: { ...reachable.hub, origin } })
    await expect(pull('dev')).rejects.toThrow(
      `Expected an answer from ${origin} but received none: connect ECONNREFUSED`,
    )
  })

  test('of a repository that is no Flux.1 in the diffusers layout fetches nothing', async () => {
    const hub = await startHub()
    hub.hub.json(hub.tree, [listEntry('flux1-dev.safetensors', Buffer.from('weights'))])
    const { pull } = prepare(hub)
    await expect(pull('dev')).rejects.toThrow(
      `Expected a diffusers checkpoint of Flux.1 in ${name} but transformer, vae, scheduler,`,
    )
    expect(hub.storage.asked).toEqual([])
  })

  test('of paths that lead elsewhere leaves those out', async () => {
    const hub = await startHub()
    const outside = ['../evil.json', 'vae/../../evil.json', '/etc/evil.json', 'vae/a\\b.json']
    const listed = outside.map((path) => listEntry(path, Buffer.from('evil')))
    hub.hub.json(hub.tree, [...listed, ...hub.entries])
    const { pull, dataDir } = prepare(hub)
    await pull('dev')
    expect(filesOf(dataDir).filter((path) => path.includes('evil'))).toEqual([])
  })

  test.each([
    [
      'another size than the hub tells',
      1,
      0,
      /expected \d+ bytes with sha256 digest .* but received/,
    ],
    ['more bytes than the hub tells', -1, 0, /Expected a file of at most \d+ bytes/],
    [
      'other content of the same size',
      0,
      1,
      /expected \d+ bytes with sha256 digest .* but received/,
    ],
  ])('with %s keeps nothing of the file', async (_fault, longer, flipped, message) => {
    const hub = await startHub()
    const bytes = Buffer.from(hub.files.get(weights)!)
    bytes[5000]! ^= flipped
    const listed = hub.entries.map((entry) =>
      entry.path === weights ? { ...entry, size: entry.size + longer } : entry,
    )
    hub.hub.json(hub.tree, listed)
    hub.storage.file(`/${weights}`, bytes, { etag: '"other"' })
    const { pull, dataDir } = prepare(hub)
    const refusal = pull('dev')
    await expect(refusal).rejects.toThrow(message)
    await expect(refusal).rejects.toThrow(`${weights}: `)
    const left = filesOf(join(dataDir, 'models/black-forest-labs--FLUX.1-dev.partial'))
    expect(left.filter((path) => path.startsWith(weights))).toEqual([])
  })

  test('of a small file with other content is found out by git’s hash', async () => {
    const hub = await startHub()
    const bytes = Buffer.from(hub.files.get('vae/config.json')!)
    bytes[0]! ^= 1
    hub.storage.file('/vae/config.json', bytes)
    await expect(prepare(hub).pull('dev')).rejects.toThrow(/vae\/config.json: .* with git digest/)
  })

  test('for want of disk space ends before it begins', async () => {
    const hub = await startHub()
    const listed = hub.entries.map((entry) =>
      entry.path === weights ? { ...entry, size: 9e15 } : entry,
    )
    hub.hub.json(hub.tree, listed)
    await expect(prepare(hub).pull('dev')).rejects.toMatchObject({
      code: 'storage_full',
      message: expect.stringMatching(/^Expected 9000000\.0 GB of free space in .* but there are/),
    })
    expect(hub.storage.askedFor(`/${weights}`)).toEqual([])
  })

  test('ends in a checkpoint that does not open is not given its name', async () => {
    const hub = await startHub()
    const config = JSON.parse(hub.files.get('transformer/config.json')!.toString())
    const bytes = Buffer.from(JSON.stringify({ ...config, in_channels: 384 }))
    const listed = hub.entries.map((entry) =>
      entry.path === 'transformer/config.json' ? listEntry(entry.path, bytes) : entry,
    )
    hub.hub.json(hub.tree, listed)
    hub.storage.file('/transformer/config.json', bytes)
    const { pull, dataDir } = prepare(hub)
    await expect(pull('dev')).rejects.toThrow('a Flux.1 Fill model')
    expect(readdirSync(join(dataDir, 'models'))).toEqual(['black-forest-labs--FLUX.1-dev.partial'])
  })
})
