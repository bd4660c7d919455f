/**
 * decoder CHECKPOINT [SIDE…]: how long the autoencoder of a checkpoint takes to decode a picture in
 * float32 and in float16, and how far apart the two are, on what FLUXD_DEVICE and FLUXD_BACKEND say.
 * The latents are noise: harder to decode than a picture's. JSON on stdout.
 *
 *     npx tsx test/bench/decoder.ts models/tiny/dev 512 1024
 */

import { medianOf } from '../../src/bench/statistics.js'
import { psnr } from '../../src/cli/similarity.js'
import { readConfig } from '../../src/config/config.js'
import { chooseTarget } from '../../src/doctor/target.js'
import { openCheckpoint } from '../../src/engine/checkpoint/checkpoint.js'
import { type Decoder, loadDecoder } from '../../src/engine/models/vae.js'
import { startNoise } from '../../src/engine/pipeline/rng/randn.js'
import { openBackend } from '../../src/engine/runtime/backends/open.js'
import type { ImageDType } from '../../src/engine/runtime/ops/vae.js'
import type { PixelSize } from '../../src/plan/plan.js'

const repeats = 5

const [checkpoint, ...given] = process.argv.slice(2)
if (checkpoint === undefined) throw new Error('usage: decoder CHECKPOINT [SIDE…]')
const sides = given.length > 0 ? given.map(Number) : [512, 1024]

const config = readConfig()
const target = await chooseTarget(config)
const backend = openBackend(target.device, target.backend)
const { autoencoder } = openCheckpoint(checkpoint)
let hasOverflowed = false

const load = (dtype: ImageDType) =>
  loadDecoder(autoencoder, { threads: config.threads, widenWeights: 'load' }, backend, {
    dtype,
    onOverflow: () => {
      hasOverflowed = true
    },
  })

/** The picture, and the milliseconds of the first time and of the median of those after it. */
async function measure({ decode }: Decoder, latents: Float32Array, size: PixelSize) {
  const times: number[] = []
  let rgb = new Uint8Array()
  for (let i = 0; i <= repeats; i++) {
    const startedAt = performance.now()
    rgb = Uint8Array.from(await decode(latents, size))
    times.push(performance.now() - startedAt)
  }
  const [firstMs, ...later] = times
  return { rgb, firstMs, ms: medianOf(later) }
}

const rows = []
for (const side of sides) {
  const size = { width: side, height: side }
  const latents = startNoise('torch-cuda', 1, size)
  const timed = async (dtype: ImageDType) => {
    const decoder = await load(dtype)
    const result = await measure(decoder, latents, size)
    for (const session of decoder.sessions) await session.release()
    return result
  }
  const { rgb: exact, ...float32 } = await timed('F32')
  const { rgb, ...float16 } = await timed('F16')
  rows.push({ side, float32, float16, decibels: psnr(rgb, exact) })
}
process.stdout.write(`${JSON.stringify({ checkpoint, ...target, hasOverflowed, rows }, null, 2)}\n`)
