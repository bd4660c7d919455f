/** What another process does in the very moment in which a file is evicted. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test, vi } from 'vitest'
import { makeWeights } from './hosts.js'
import { filesOf, setUp } from './server.js'

/** Called before a file of weights is removed or moved away. */
const meanwhile = vi.hoisted(() => ({ act: (_path: string) => {} }))

vi.mock('node:fs', async (importOriginal) => {
  const fs = await importOriginal<typeof import('node:fs')>()
  const first =
    <Rest extends unknown[]>(work: (path: string, ...rest: Rest) => void) =>
    (path: string, ...rest: Rest) => {
      if (/blobs.[0-9a-f]{64}\.safetensors$/.test(path)) meanwhile.act(path)
      work(path, ...rest)
    }
  return { ...fs, rmSync: first(fs.rmSync), renameSync: first(fs.renameSync) }
})

test('a file that another process leases during its eviction stays', async () => {
  const { host, dataDir, acquire } = await setUp({ maxBytes: 20_000, cacheBytes: 15_000 })
  for (const name of ['a', 'b']) host.file(`/${name}.safetensors`, makeWeights(10_000))
  const { digest, release } = await acquire(`${host.origin}/a.safetensors`)
  release()
  meanwhile.act = () => {
    writeFileSync(join(dataDir, 'loras/holds', `${digest}.${process.ppid}`), '')
  }
  await acquire(`${host.origin}/b.safetensors`)
  expect(filesOf(dataDir, 'blobs')).toContain(`${digest}.safetensors`)
  expect(filesOf(dataDir, 'blobs')).toHaveLength(2)
  expect(filesOf(dataDir, 'parts')).toEqual([])
})
