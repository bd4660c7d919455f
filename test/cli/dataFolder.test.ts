/** Other users of the machine cannot read what commands write to the data folder. */
import { execFileSync } from 'node:child_process'
import { chmodSync, mkdirSync, readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { startServer } from '../faults/serverProcess.js'
import { temporaryFolder } from '../weightFiles.js'

const main = join(import.meta.dirname, '../../src/main.ts')
const lora = join(import.meta.dirname, '../../models/tiny/loras/fofr--shxdo-v2.safetensors')

/** The entries below `folder`, and itself, that others have a right to. */
const listOpen = (folder: string) =>
  [
    folder,
    ...readdirSync(folder, { recursive: true, encoding: 'utf8' }).map((each) => join(folder, each)),
  ].filter((path) => (statSync(path).mode & 0o077) !== 0)

test.each([
  ['keys', 'add', 'me'],
  ['loras', 'add', 'mine', lora],
  ['models', 'add', 'me/mine', '--lora', lora],
])('fluxd %s %s keeps it to its owner', (...command) => {
  const dataDir = join(temporaryFolder(), 'data')
  mkdirSync(dataDir)
  chmodSync(dataDir, 0o755)
  const env = { ...process.env, FLUXD_DATA_DIR: dataDir }
  execFileSync(process.execPath, ['--import', 'tsx', main, ...command], { env, timeout: 120_000 })
  expect(readdirSync(dataDir).length).toBeGreaterThan(0)
  expect(listOpen(dataDir)).toEqual([])
})

test('fluxd serve keeps it to its owner, with what a prediction leaves', async () => {
  const dataDir = join(temporaryFolder(), 'data')
  const server = await startServer(dataDir)
  onTestFinished(server.stop)
  const input = {
    prompt: 'a red disc',
    model: 'schnell',
    num_inference_steps: 1,
    megapixels: '0.25',
  }
  const reply = await fetch(`${server.origin}/v1/models/fluxd/flux/predictions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', prefer: 'wait=60' },
    body: JSON.stringify({ input }),
  })
  expect(await reply.json()).toMatchObject({ status: 'succeeded' })
  expect(listOpen(dataDir)).toEqual([])
})
