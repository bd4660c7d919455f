/**
 * `npm run bench:memory`: whether an engine gives back what switching LoRAs and making pictures
 * take. 200 switches between sets, scales and precisions, then 200 pictures of one set at changing
 * sizes; each level of resident memory is compared with the one after the first 20. JSON on stdout;
 * fails when a level is more than 10 % higher.
 */

import { readFileSync } from 'node:fs'
import { cpus } from 'node:os'
import { pino } from 'pino'
import { requestOf } from '../../src/bench/cases.js'
import { readConfig } from '../../src/config/config.js'
import type { GenerationPlan, LoraFile } from '../../src/plan/plan.js'
import { type Engine, startEngine } from '../../src/worker/engine/client.js'
import { sketch } from '../embedded/studio.js'
import { styles } from '../embedded/styles.js'

const rounds = 200
const settled = 20
const maxGrowth = 1.1

/** Resident memory of a process, in MB. */
function residentMegabytes(pid: number): number {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8')
  return Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1]) / 1024
}

const lora = (index: number, scale: number): LoraFile => ({
  name: 'lora',
  path: styles[index % styles.length]!.path,
  scale,
})

/** Never the set before: one or two LoRAs, their scales, the precision and now and then no LoRA. */
const switched = (i: number): GenerationPlan => ({
  ...sketch,
  size: { width: 128, height: 128 },
  steps: 1,
  precision: i % 3 === 0 ? 'fp8' : 'bf16',
  loras:
    i % 10 === 9
      ? []
      : [lora(i, 0.5 + (i % 7) / 10), ...(i % 2 ? [lora(i + 2, (i % 5) / 5 - 0.4)] : [])],
})

const sides = [128, 256, 192, 384]
const painted = (i: number): GenerationPlan => ({
  ...sketch,
  size: { width: sides[i % sides.length]!, height: sides[(i >> 2) % sides.length]! },
  steps: 2,
  seed: i,
  loras: [lora(0, 1)],
})

async function measure(engine: Engine, planOf: (i: number) => GenerationPlan) {
  const levels: number[] = []
  for (let i = 0; i < rounds; i++) {
    await engine.generate(requestOf(planOf(i)))
    levels.push(Math.round(residentMegabytes(engine.pid()!)))
  }
  // A level is that of the highest of five rounds: the engine collects garbage when it likes.
  const level = (end: number) => Math.max(...levels.slice(end - 5, end))
  const growth = level(rounds) / level(settled)
  return {
    after20: level(settled),
    after200: level(rounds),
    highest: Math.max(...levels),
    growth: Number(growth.toFixed(3)),
    every20: levels.filter((_, i) => i % 20 === 19),
  }
}

const { checkpoints, threads } = readConfig(process.env)
const engine = startEngine({ checkpoints, threads }, pino({ level: 'silent' }))
try {
  const switches = await measure(engine, switched)
  const pictures = await measure(engine, painted)
  console.log(
    JSON.stringify(
      {
        date: new Date().toISOString(),
        cpu: cpus()[0]?.model,
        node: process.version,
        megabytes: { switches, pictures },
      },
      null,
      2,
    ),
  )
  if (Math.max(switches.growth, pictures.growth) > maxGrowth) process.exitCode = 1
} finally {
  await engine.stop()
}
