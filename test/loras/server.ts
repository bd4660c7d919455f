/** A cache whose Hugging Face, CivitAI, Replicate and files are all played by one local server. */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { onTestFinished } from 'vitest'
import {
  createLoraCache,
  type LoraCacheOptions,
  type LoraCacheSettings,
} from '../../src/loras/loraCache.js'
import { type Host, startHost } from './hosts.js'

export const tokens = { huggingFace: 'hf_SECRET', civitai: 'cv_SECRET' }

const secret = (value: string) => ({ reveal: () => value, toJSON: () => '***' })

export type Sizes = Partial<LoraCacheSettings['loras']>

export function makeFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'fluxd-cache-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

/** The same folder again is a restart. */
export function openCache(
  host: Host,
  dataDir: string,
  { maxBytes = 2 ** 20, cacheBytes = 2 ** 24, minFreeBytes = 0 }: Sizes = {},
  options: LoraCacheOptions = {},
) {
  const cache = createLoraCache(
    {
      dataDir,
      hosts: {
        huggingFace: { url: host.origin, token: secret(tokens.huggingFace) },
        civitai: { url: host.origin, token: secret(tokens.civitai) },
        replicate: { url: host.origin, token: undefined },
      },
      allowedHosts: ['127.0.0.1'],
      loras: { maxBytes, cacheBytes, minFreeBytes },
    },
    {
      retry: { attempts: 2, delayMs: 5, stallMs: 200, timeoutMs: 5000, minBytesPerSecond: 0 },
      ...options,
    },
  )
  onTestFinished(() => cache.close())
  return cache
}

export type TestCache = ReturnType<typeof openCache>

export async function setUp(sizes: Sizes = {}, options: LoraCacheOptions = {}) {
  const host = await startHost()
  const dataDir = makeFolder()
  const cache = openCache(host, dataDir, sizes, options)
  const lines: string[] = []
  const acquire = (reference: string, signal = new AbortController().signal) =>
    cache.acquire(reference, { signal, writeLine: (line) => void lines.push(line) })
  return { host, dataDir, cache, lines, acquire }
}

/** The files below `folder` of a cache's own folder. */
export const filesOf = (dataDir: string, folder: 'blobs' | 'holds' | 'parts') =>
  readdirSync(join(dataDir, 'loras', folder))

/** Everything that a cache has written to disk besides the weights. */
export const writtenText = (dataDir: string) =>
  readdirSync(join(dataDir, 'loras'), { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.json'))
    .map((file) => `${file} ${readFileSync(join(dataDir, 'loras', file), 'utf8')}`)
    .join('\n')
