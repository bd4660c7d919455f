/** What stays on disk, what is evicted, and what a killed process leaves behind. */
import { spawn } from 'node:child_process'
import {
  existsSync,
  readdirSync,
  readFileSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, onTestFinished, test } from 'vitest'
import { type Host, makeWeights, sha256, startHost } from './hosts.js'
import { filesOf, makeFolder, openCache, setUp } from './server.js'

const options = { signal: new AbortController().signal, writeLine: () => {} }

/** Files a, b, c, … of 10 kB each; their URLs. */
function addFiles(host: Host, names: string) {
  return [...names].map((name) => {
    host.file(`/${name}.safetensors`, makeWeights(10_000))
    return `${host.origin}/${name}.safetensors`
  })
}

// Dates of files are compared; two uses within one tick of the clock would be the same.
const tick = () => new Promise((resolve) => setTimeout(resolve, 15))

const partBytes = (dataDir: string) =>
  filesOf(dataDir, 'parts')
    .filter((file) => file.endsWith('.part'))
    .map((file) => statSync(join(dataDir, 'loras/parts', file)).size)
    .reduce((sum, bytes) => sum + bytes, 0)

describe('when the quota is reached', () => {
  test('the one that was used longest ago goes, and the log says so', async () => {
    const { host, acquire, lines } = await setUp({ cacheBytes: 25_000 })
    const [a, b, c] = addFiles(host, 'abc') as [string, string, string]
    const paths: string[] = []
    for (const url of [a, b, a, c]) {
      const lora = await acquire(url)
      lora.release()
      paths.push(lora.path)
      await tick()
    }
    expect(lines.filter((line) => line.startsWith('removing'))).toEqual([
      `removing oldest ${paths[1]}`,
    ])
    expect(paths.map((path) => existsSync(path))).toEqual([true, false, true, true])
    expect((await acquire(a)).source).toBe('disk')
    expect((await acquire(b)).source).toBe('network')
  })

  test('what is in use stays, also beyond the quota, and goes when it is released', async () => {
    const { host, acquire, dataDir } = await setUp({ cacheBytes: 25_000 })
    const urls = addFiles(host, 'abcd')
    const held = []
    for (const url of urls.slice(0, 3)) {
      held.push(await acquire(url))
      await tick()
    }
    expect(filesOf(dataDir, 'blobs')).toHaveLength(3)
    for (const { path } of held) expect(existsSync(path)).toBe(true)

    held[1]!.release()
    held[1]!.release()
    await acquire(urls[3]!)
    expect(held.map(({ path }) => existsSync(path))).toEqual([true, false, true])
  })

  test('a file that is used twice is in use until both are done', async () => {
    const { host, acquire } = await setUp({ cacheBytes: 15_000 })
    const [a, b, c] = addFiles(host, 'abc') as [string, string, string]
    const [first, second] = [await acquire(a), await acquire(a)]
    first.release()
    first.release()
    ;(await acquire(b)).release()
    expect(existsSync(first.path)).toBe(true)
    second.release()
    await acquire(c)
    expect(existsSync(first.path)).toBe(false)
  })

  test('what has a name stays', async () => {
    const { host, cache, acquire, dataDir } = await setUp({ cacheBytes: 15_000 })
    const [a, b] = addFiles(host, 'ab') as [string, string]
    await cache.add('kept', a, options)
    await tick()
    ;(await acquire(b)).release()
    expect(filesOf(dataDir, 'blobs')).toHaveLength(2)
    expect((await acquire('kept')).source).toBe('disk')
  })

  test('a partial file that is not continued is evicted, too', async () => {
    const { host, acquire, dataDir } = await setUp({ cacheBytes: 45_000 })
    const [a] = addFiles(host, 'a') as [string]
    host.file('/big.safetensors', makeWeights(40_000), {
      etag: '"1"',
      received: () => partBytes(dataDir),
      faults: [
        { kind: 'cut', after: 37_000 },
        { kind: 'cut', after: 100 },
      ],
    })
    await expect(acquire(`${host.origin}/big.safetensors`)).rejects.toThrow()
    expect(partBytes(dataDir)).toBe(37_100)
    await tick()
    await acquire(a)
    expect(filesOf(dataDir, 'parts').filter((file) => file.endsWith('.part'))).toEqual([])
  })

  test('files are evicted from a disk that is too full, as long as there are any', async () => {
    const host = await startHost()
    const dataDir = makeFolder()
    const [a, b] = addFiles(host, 'ab') as [string, string]
    const roomy = openCache(host, dataDir)
    const first = await roomy.acquire(a, options)
    first.release()
    const lines: string[] = []
    const strict = openCache(host, dataDir, { minFreeBytes: Number.MAX_SAFE_INTEGER })
    const second = await strict.acquire(b, { ...options, writeLine: (line) => lines.push(line) })
    expect(lines.slice(0, 3)).toEqual([
      expect.stringMatching(/^free=\d+$/),
      `removing oldest ${first.path}`,
      'Downloading weights',
    ])
    expect(existsSync(first.path)).toBe(false)
    expect(existsSync(second.path)).toBe(true)
  })
})

test('whatever eight users do at once with space for two files, leased files are there and sound', async () => {
  const { host, acquire, dataDir } = await setUp({ cacheBytes: 25_000 })
  const urls = addFiles(host, 'abcdef')
  let seed = 7
  const draw = (below: number) => {
    seed = (seed * 16807) % 2147483647
    return seed % below
  }
  let misses = 0
  async function use() {
    for (let i = 0; i < 40; i++) {
      const lora = await acquire(urls[draw(urls.length)]!)
      if (lora.source === 'network') misses++
      if (draw(2) === 0) await new Promise((resolve) => setTimeout(resolve, draw(5)))
      expect(sha256(readFileSync(lora.path))).toBe(lora.digest)
      lora.release()
    }
  }
  await Promise.all(Array.from({ length: 8 }, use))
  expect(misses).toBeGreaterThan(20)
  ;(await acquire(urls[0]!)).release()
  await acquire(addFiles(host, 'g')[0]!)
  expect(filesOf(dataDir, 'blobs').length).toBeLessThanOrEqual(2)
  expect(filesOf(dataDir, 'parts')).toEqual([])
})

describe('after a restart', () => {
  test('everything is there, and the order of use is kept', async () => {
    const host = await startHost()
    const dataDir = makeFolder()
    const urls = addFiles(host, 'abc') as [string, string, string]
    const before = openCache(host, dataDir, { cacheBytes: 35_000 })
    const paths: string[] = []
    for (const url of [...urls, urls[0]]) {
      const { path, release } = await before.acquire(url, options)
      release()
      paths.push(path)
      await tick()
    }
    await before.add('named', urls[2], options)

    const after = openCache(host, dataDir, { cacheBytes: 35_000 })
    const asked = host.asked.length
    expect((await after.acquire('named', options)).source).toBe('disk')
    expect((await after.list()).map(({ name, source }) => name ?? source)).toEqual([
      'named',
      urls[0],
      urls[1],
    ])
    expect(host.asked).toHaveLength(asked)
    const [d] = addFiles(host, 'd') as [string]
    await after.acquire(d, options)
    expect(paths.slice(0, 3).map((path) => existsSync(path))).toEqual([true, false, true])
  })

  test.each([
    ['is cut off', (path: string) => truncateSync(path, 100)],
    ['is gone', (path: string) => truncateSync(path, 0)],
  ])('weights whose file %s are fetched again', async (_, damage) => {
    const host = await startHost()
    const dataDir = makeFolder()
    const [a] = addFiles(host, 'a') as [string]
    const first = await openCache(host, dataDir).acquire(a, options)
    damage(first.path)
    const second = await openCache(host, dataDir).acquire(a, options)
    expect(second).toMatchObject({ source: 'network', digest: first.digest })
    expect(sha256(readFileSync(second.path))).toBe(first.digest)
  })

  test('a damaged entry is as good as none', async () => {
    const host = await startHost()
    const dataDir = makeFolder()
    const [a] = addFiles(host, 'a') as [string]
    const first = await openCache(host, dataDir).acquire(a, options)
    const folder = join(dataDir, 'loras/references')
    writeFileSync(join(folder, readdirSync(folder)[0]!), '{"digest":')
    const second = await openCache(host, dataDir).acquire(a, options)
    expect(second).toMatchObject({ source: 'network', path: first.path })
  })

  test('half files are thrown away after a day', async () => {
    const host = await startHost()
    const dataDir = makeFolder()
    const [a] = addFiles(host, 'a') as [string]
    const cache = openCache(host, dataDir)
    const part = join(dataDir, 'loras/parts', `${'0'.repeat(64)}.999999999.part`)
    writeFileSync(part, 'half')
    await cache.acquire(a, options)
    expect(existsSync(part)).toBe(true)
    const longAgo = new Date(Date.now() - 25 * 60 * 60_000)
    utimesSync(part, longAgo, longAgo)
    await cache.acquire(addFiles(host, 'b')[0]!, options)
    expect(existsSync(part)).toBe(false)
  })
})

describe('a process that is killed', () => {
  const weights = makeWeights(300_000)

  /** Acquires `reference` in another process. */
  function startProcess(dataDir: string, host: Host, reference: string) {
    const script = fileURLToPath(new URL('acquire.ts', import.meta.url))
    const child = spawn(
      process.execPath,
      ['--import', 'tsx', script, dataDir, host.origin, reference],
      { stdio: 'inherit' },
    )
    onTestFinished(() => void child.kill('SIGKILL'))
    const exited = new Promise((resolve) => child.once('exit', resolve))
    return { exited, kill: () => child.kill('SIGKILL') }
  }

  test('in the middle of a download leaves a part, from which the next one goes on', async () => {
    const host = await startHost()
    const dataDir = makeFolder()
    const cache = openCache(host, dataDir)
    host.file('/a.safetensors', weights, { etag: '"1"', pauseMs: 200 })
    const url = `${host.origin}/a.safetensors`
    const child = startProcess(dataDir, host, url)
    await expect.poll(() => partBytes(dataDir), { timeout: 30_000 }).toBeGreaterThan(50_000)
    child.kill()
    await child.exited
    const kept = partBytes(dataDir)
    expect(kept).toBeLessThan(weights.length)
    expect(filesOf(dataDir, 'blobs')).toEqual([])

    host.file('/a.safetensors', weights, { etag: '"1"' })
    const lora = await cache.acquire(url, options)
    expect(readFileSync(lora.path)).toEqual(weights)
    expect(host.asked[1]!.headers.range).toBe(`bytes=${kept}-`)
    expect(filesOf(dataDir, 'parts')).toEqual([])
  })

  test('has no leases any more', async () => {
    const host = await startHost()
    const dataDir = makeFolder()
    const [a, b, c] = addFiles(host, 'abc') as [string, string, string]
    const child = startProcess(dataDir, host, `hold ${a}`)
    const held = () => filesOf(dataDir, 'holds').length
    await expect.poll(held, { timeout: 30_000 }).toBe(1)
    const [blob] = filesOf(dataDir, 'blobs')
    const path = join(dataDir, 'loras/blobs', blob!)

    const cache = openCache(host, dataDir, { cacheBytes: 15_000 })
    ;(await cache.acquire(b, options)).release()
    expect(existsSync(path)).toBe(true)
    expect((await cache.list()).map(({ inUse }) => inUse)).toEqual([false, true])
    child.kill()
    await child.exited
    ;(await cache.acquire(c, options)).release()
    expect(existsSync(path)).toBe(false)
  })

  test('at any moment leaves whole files only, and entries that lead to them', async () => {
    const host = await startHost()
    const dataDir = makeFolder()
    const urls = addFiles(host, 'abcdefgh')
    for (const [index, killAt] of [3, 9, 17].entries()) {
      const child = startProcess(dataDir, host, urls.join(' '))
      const asked = host.asked.length
      await expect
        .poll(() => host.asked.length - asked, { timeout: 30_000, interval: 1 })
        .toBeGreaterThan(killAt)
      child.kill()
      await child.exited
      expect(filesOf(dataDir, 'blobs').length, `kill ${index}`).toBeGreaterThan(0)
      for (const file of filesOf(dataDir, 'blobs'))
        expect(sha256(readFileSync(join(dataDir, 'loras/blobs', file)))).toBe(file.split('.')[0])
      const cache = openCache(host, dataDir, { cacheBytes: 25_000 })
      for (const { digest } of await cache.list()) expect(digest).toMatch(/^[0-9a-f]{64}$/)
      for (const url of urls.slice(0, 3)) {
        const lora = await cache.acquire(url, options)
        expect(sha256(readFileSync(lora.path))).toBe(lora.digest)
        lora.release()
      }
    }
  })

  test('and one that lives never write the same part', async () => {
    const host = await startHost()
    const dataDir = makeFolder()
    const cache = openCache(host, dataDir)
    host.file('/a.safetensors', weights, { etag: '"1"', pauseMs: 100 })
    const url = `${host.origin}/a.safetensors`
    const child = startProcess(dataDir, host, url)
    await expect.poll(() => partBytes(dataDir), { timeout: 30_000 }).toBeGreaterThan(20_000)
    const lora = await cache.acquire(url, options)
    expect(host.asked.map(({ headers }) => headers.range)).toEqual([undefined, undefined])
    expect(await child.exited).toBe(0)
    expect(readFileSync(lora.path)).toEqual(weights)
    expect(filesOf(dataDir, 'blobs')).toHaveLength(1)
    expect(filesOf(dataDir, 'parts')).toEqual([])
  })
})
