/**
 * `npm run bench`: how long pictures take on this machine and what they cost, as JSON on stdout.
 * It measures what a user gets: an engine process driven from an API process.
 */
import { spawn } from 'node:child_process'
import { availableParallelism, cpus } from 'node:os'
import { type IntervalHistogram, monitorEventLoopDelay } from 'node:perf_hooks'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { pino } from 'pino'
import { type BenchCase, listCases, nameCase, planOf } from '../../src/bench/cases.js'
import { measureImages } from '../../src/bench/images.js'
import { peakResidentBytes } from '../../src/bench/memory.js'
import { measureLoraSwitches } from '../../src/bench/switches.js'
import { readConfig } from '../../src/config/config.js'
import { chooseTarget } from '../../src/doctor/target.js'
import { type GenerationPlan, variants } from '../../src/plan/plan.js'
import { startEngine } from '../../src/worker/engine/client.js'
import { styleOf } from '../embedded/styles.js'
import { flat } from '../engine/images/images.js'

const rounds = 3
const square = (side: number) => ({ width: side, height: side })
const dev512: BenchCase = { variant: 'dev', precision: 'bf16', size: square(512), steps: 28 }

const peakMegabytes = (pid: number) => (peakResidentBytes(pid) ?? Number.NaN) / 2 ** 20

/** Peak memory of the built server after it has answered a prediction of 1024². */
async function serverMegabytes(): Promise<number> {
  const main = fileURLToPath(new URL('../../dist/main.js', import.meta.url))
  const server = spawn(process.execPath, [main, 'serve'], {
    env: { ...process.env, FLUXD_PORT: '0', FLUXD_LOG_LEVEL: 'silent' },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  try {
    for await (const line of createInterface(server.stdout)) {
      const address = /http:\S+/.exec(line)?.[0]
      if (!address) continue
      const input = { prompt: 'a red circle on a blue background', model: 'schnell' }
      const body = JSON.stringify({ input: { ...input, num_inference_steps: 4 } })
      const headers = { 'content-type': 'application/json' }
      const reply = await fetch(`${address}/predictions`, { method: 'POST', headers, body })
      if (!reply.ok) throw new Error(`The server answered ${reply.status}: ${await reply.text()}`)
      return peakMegabytes(server.pid!)
    }
    throw new Error('The server ended without saying where it listens')
  } finally {
    server.kill()
  }
}

const round = (value: number, digits = 3) => Number(value.toFixed(digits))

// The histogram adds its own resolution to every sample.
const describeDelay = (delay: IntervalHistogram) => ({
  p99: round(delay.percentile(99) / 1e6 - 1, 1),
  p999: round(delay.percentile(99.9) / 1e6 - 1, 1),
  longest: round(delay.max / 1e6 - 1, 1),
})

/** `change` makes of the plan of a case what is measured. */
const measure = async (
  name: string,
  change: (plan: GenerationPlan) => GenerationPlan,
  of: BenchCase = dev512,
) => ({
  case: name,
  ...(await measureImages((i) => change(planOf(of, i)), rounds, { engine })),
})

/** dev at 512² in fp8, from an image and under a mask, at the default strength of 0.8. */
async function measureModes() {
  const bytes = await flat(512, 512, 'navy').png().toBuffer()
  const mask = await flat(512, 512, 'white').png().toBuffer()
  const image = { bytes, size: dev512.size }
  const fp8 = { ...dev512, precision: 'fp8' } as const
  return [
    await measure(nameCase(fp8), (plan) => plan, fp8),
    await measure(`${nameCase(dev512)}, img2img 0.8`, (plan) => ({
      ...plan,
      start: { kind: 'image', image },
      firstStep: 5,
    })),
    await measure(`${nameCase(dev512)}, inpaint 0.8`, (plan) => ({
      ...plan,
      start: { kind: 'inpaint', image, mask },
      firstStep: 5,
    })),
  ]
}

const config = readConfig(process.env)
const { checkpoints, threads } = config
const target = await chooseTarget(config)
const { device } = target
const engine = startEngine({ checkpoints, ...target, threads }, pino({ level: 'silent' }))
const loadSeconds: Record<string, number> = {}
const loopDelays: Record<string, IntervalHistogram> = {}
const results = []
for (const variant of variants) {
  const startedAt = performance.now()
  await engine.load(variant)
  loadSeconds[variant] = round((performance.now() - startedAt) / 1000)
  // A histogram of its own, or the pause while loading would count.
  const loopDelay = monitorEventLoopDelay({ resolution: 1 })
  loopDelays[variant] = loopDelay
  loopDelay.enable()
  const sizes = [square(512), square(1024)]
  for (const each of listCases({ variants: [variant], precisions: ['bf16'], sizes }))
    results.push(await measure(nameCase(each), (plan) => plan, each))
  loopDelay.disable()
}
results.push(...(await measureModes()))
const lora = styleOf('fofr/shxdo').path
const loraSwitches = await measureLoraSwitches(planOf(dev512), lora, 5, { engine })
const report = {
  date: new Date().toISOString(),
  device,
  cpu: cpus()[0]?.model,
  threads: threads || availableParallelism(),
  node: process.version,
  loadSeconds,
  results,
  loraSwitches,
  peakRssMegabytes: {
    api: round(await serverMegabytes(), 0),
    engine: round(peakMegabytes(engine.pid()!), 0),
  },
  eventLoopBlockMs: Object.fromEntries(
    Object.entries(loopDelays).map(([variant, delay]) => [variant, describeDelay(delay)]),
  ),
}
await engine.stop()
console.log(JSON.stringify(report, null, 2))
