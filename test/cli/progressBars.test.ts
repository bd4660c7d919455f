import { PassThrough } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { showBytes, showPull } from '../../src/cli/progressBars.js'
import type { RepositoryFile } from '../../src/net/huggingFace/repository.js'

const makeFile = (path: string, bytes: number): RepositoryFile => ({
  path,
  bytes,
  url: `https://host/${path}`,
  digest: { kind: 'sha256', hex: '0'.repeat(64) },
})

const [config, weights] = [makeFile('vae/config.json', 1000), makeFile('vae/a.safetensors', 9e9)]

function prepare(isTTY: boolean) {
  const stream = Object.assign(new PassThrough(), { isTTY, columns: 120 })
  const view = showPull([config, weights], stream as unknown as NodeJS.WriteStream)
  return { view, shown: () => String(stream.read() ?? '') }
}

test('on a terminal there is a bar for each file under way and one for all', async () => {
  const { view, shown } = prepare(true)
  view.start(config)
  view.finish(config)
  view.start(weights)
  view.update(weights, 4.5e9)
  await sleep(200)
  const half = shown()
  expect(half).toMatch(/50 % · 9\.0 GB · .* · total/)
  expect(half).toMatch(/50 % · 9\.0 GB · .* · vae\/a\.safetensors/)
  view.update(weights, 6.75e9)
  await sleep(200)
  expect(shown()).toMatch(/75 % · 9\.0 GB · .* · total/)
  view.stop()
})

test('elsewhere there is a line for each file that is complete', () => {
  const { view, shown } = prepare(false)
  view.start(config)
  view.update(config, 500)
  expect(shown()).toBe('')
  view.finish(config)
  view.stop()
  expect(shown()).toBe('vae/config.json: 1.0 kB\n')
})

test.each([
  [0, '0 B'],
  [999, '999 B'],
  [1000, '1.0 kB'],
  [4_100_000, '4.1 MB'],
  [33_700_000_000, '33.7 GB'],
  [2e15, '2000.0 TB'],
])('%d bytes are %s', (bytes, text) => {
  expect(showBytes(bytes)).toBe(text)
})
