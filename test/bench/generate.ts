/**
 * `npm run bench`: how long pictures take on this machine and what they cost, as JSON on stdout.
 * It measures what a user gets: an engine process driven from an API process.
 */
import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { availableParallelism, cpus } from 'node:os'
import { type IntervalHistogram, monitorEventLoopDelay } from 'node:perf_hooks'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { pino } from 'pino'
import { readConfig } from '../../src/config.js'
import { startEngine } from '../../src/engine/engine.js'
import type { GenerationTimings } from '../../src/engine/protocol.js'
import type { GenerationPlan, Variant } from '../../src/plan/plan.js'

const steps = { dev: 28, schnell: 4 } as const
const rounds = 3

const planOf = (variant: Variant, side: number): GenerationPlan => ({
  variant,
  prompt: 'a red circle on a blue background',
  size: { width: side, height: side },
  start: { kind: 'noise' },
  loras: [],
  steps: steps[variant],
  firstStep: 0,
  guidance: 3,
  seed: 7,
  count: 1,
  noise: 'torch-cuda',
  output: { format: 'webp', quality: 80 },
  notes: [],
})

/** Peak resident memory of a process so far, in MB. */
function peakMegabytes(pid: number): number {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8')
  return Number(/VmHWM:\s+(\d+) kB/.exec(status)?.[1]) / 1024
}

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

const median = (values: readonly number[]) =>
  [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)]!

const round = (value: number, digits = 3) => Number(value.toFixed(digits))

function summary(variant: Variant, side: number, timings: readonly GenerationTimings[]) {
  const middle = (stage: keyof GenerationTimings) => median(timings.map((each) => each[stage]))
  const outside = timings.map(({ total, ort }) => 1 - ort / total)
  return {
    case: `${variant}-${steps[variant]} ${side}x${side}`,
    secondsPerPicture: round(middle('total')),
    secondsPerStep: round(middle('denoise') / steps[variant]),
    decodeSeconds: round(middle('decode')),
    encodeSeconds: round(middle('encode')),
    shareOutsideOrt: round(median(outside)),
  }
}

// The histogram adds its own resolution to every sample.
const describeDelay = (delay: IntervalHistogram) => ({
  p99: round(delay.percentile(99) / 1e6 - 1, 1),
  p999: round(delay.percentile(99.9) / 1e6 - 1, 1),
  longest: round(delay.max / 1e6 - 1, 1),
})

const { checkpoints, threads } = readConfig(process.env)
const engine = startEngine({ checkpoints, threads }, pino({ level: 'silent' }))
const loadSeconds: Record<string, number> = {}
const loopDelays: Record<string, IntervalHistogram> = {}
const results = []
for (const variant of ['dev', 'schnell'] as const) {
  const startedAt = performance.now()
  await engine.load(variant)
  loadSeconds[variant] = round((performance.now() - startedAt) / 1000)
  // A histogram of its own, or the pause while loading would count.
  const loopDelay = monitorEventLoopDelay({ resolution: 1 })
  loopDelays[variant] = loopDelay
  loopDelay.enable()
  for (const side of [512, 1024]) {
    const timings: GenerationTimings[] = []
    for (let i = 0; i < rounds; i++)
      timings.push((await engine.generate(planOf(variant, side))).timings)
    results.push(summary(variant, side, timings))
  }
  loopDelay.disable()
}
const report = {
  date: new Date().toISOString(),
  cpu: cpus()[0]?.model,
  threads: threads || availableParallelism(),
  node: process.version,
  loadSeconds,
  results,
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
