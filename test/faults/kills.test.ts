/**
 * The server and its engine are killed at random moments under load, again and again: every
 * prediction that was acknowledged ends in the pixels it would have had, and its receiver is told,
 * though that is down now and then. FLUXD_TEST_KILLS says how often (`npm run test:faults`: 50).
 */
import { randomInt } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { expect, onTestFinished, test, vi } from 'vitest'
import { temporaryData } from '../temporaryData.js'
import { create, follow, type Made } from './client.js'
import { startReceiver } from './receiver.js'
import { startServer } from './serverProcess.js'

const kills = Number(process.env['FLUXD_TEST_KILLS'] ?? 5)
const perRound = 5

const small = { aspect_ratio: 'custom', width: 256, height: 256, output_format: 'png' }
/** What is asked for, in turn: each of these ways is interrupted sooner or later. */
const wishes = [
  { prompt: 'a red circle', seed: 1, num_inference_steps: 4 },
  { prompt: 'a blue square', seed: 2, num_inference_steps: 2, model: 'schnell', num_outputs: 2 },
  { prompt: 'a green star', seed: 3, num_inference_steps: 3, replicate_weights: 'fofr/shxdo-v2' },
].map((wish) => ({ ...small, ...wish }))

async function makeUndisturbed(): Promise<readonly Made[]> {
  const server = await startServer(temporaryData())
  try {
    const ids = await Promise.all(
      wishes.map((wish, index) => create(() => server, wish, `${index}`)),
    )
    return await Promise.all(ids.map((id) => follow(server, id)))
  } finally {
    await server.kill()
  }
}

test(
  `after ${kills} kills every acknowledged prediction has the pixels it would have had, and was told`,
  async () => {
    const undisturbed = await makeUndisturbed()
    expect(undisturbed.map(({ outcome, digests }) => [outcome, digests.length])).toEqual([
      ['succeeded', 1],
      ['succeeded', 2],
      ['succeeded', 1],
    ])
    const dataDir = temporaryData()
    const receiver = await startReceiver()
    const start = () => startServer(dataDir, { FLUXD_ALLOWED_HOSTS: '127.0.0.1' })
    let server = await start()
    onTestFinished(() => server.kill())
    const created: Promise<{ id: string; wish: number }>[] = []
    let engineKills = 0

    for (let round = 0; round < kills; round++) {
      for (let n = 0; n < perRound; n++) {
        const wish = created.length % wishes.length
        const id = create(() => server, wishes[wish]!, `${created.length}`, receiver.url)
        created.push(id.then((id) => ({ id, wish })))
      }
      // From before the engine is ready to after everything is done.
      await delay(randomInt(50, 3500))
      // Two deaths of the engine under one prediction fail it, as they should: so not twice in a row.
      if (round % 2 === 1 && server.killEngine()) engineKills++
      else {
        await server.kill()
        server = await start()
      }
    }

    const all = await Promise.all(created)
    const made: Made[] = []
    for (const { id } of all) made.push(await follow(server, id))
    expect(made).toEqual(all.map(({ wish }) => undisturbed[wish]))
    expect(new Set(all.map(({ id }) => id)).size).toBe(kills * perRound)
    if (kills > 1) expect(engineKills).toBeGreaterThan(0)
    const succeeded = all.map(({ id }) => [id, 'succeeded'])
    await vi.waitFor(
      () => expect(new Map(receiver.told)).toEqual(new Map(succeeded as [string, string][])),
      60_000,
    )
  },
  kills * 20_000 + 60_000,
)
