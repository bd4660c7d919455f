/** `fluxd bench`: how fast this machine generates, and what share of its peak speed that is. */
import { statSync } from 'node:fs'
import { access, constants, writeFile } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { pino } from 'pino'
import { bench } from '../bench/bench.js'
import { listCases } from '../bench/cases.js'
import { describeSurroundings } from '../bench/machine.js'
import { inspectModel } from '../bench/model.js'
import type { Config } from '../config/config.js'
import { chooseTarget } from '../doctor/target.js'
import type { EngineConfig } from '../engine/protocol.js'
import { codeOf, invalidInput } from '../errors.js'
import { type PixelSize, type Precision, precisions, type Variant, variants } from '../plan/plan.js'
import { startEngine } from '../worker/engine/client.js'
import { describeReport } from './benchReport.js'
import { locateLora } from './loras.js'
import type { RunContext } from './run.js'

/** As commander names them; numbers are still text. */
export type BenchFlags = {
  readonly model?: Variant
  readonly checkpoint?: string
  readonly size?: readonly string[]
  readonly precision?: readonly Precision[]
  readonly repeats?: string
  readonly lora?: string
  readonly quick?: boolean
  readonly json?: string
}

/** What is measured where no flag changes it. */
const usual = { sizes: ['1024x1024', '512x512'], repeats: '5' }
const quick = { sizes: ['512x512'], repeats: '2' }

/** Measures, prints a table and writes the report. Throws `invalid_input` for wrong flags. */
export async function runBench(flags: BenchFlags, context: RunContext): Promise<void> {
  const { config, signal, stdout, stderr, start = startEngine } = context
  const defaults = flags.quick ? quick : usual
  const sizes = (flags.size ?? defaults.sizes).map(readSize)
  const repeats = readRepeats(flags.repeats ?? defaults.repeats)
  if (flags.json !== undefined) await expectFolder(flags.json)
  const chosen = chooseVariants(flags)
  const checkpoints = chooseCheckpoints(flags, config)
  const models = chosen.map((variant) => inspectModel(variant, checkpoints[variant]))
  const { cudaGraphs, threads, vae } = config
  const target = await chooseTarget(config)
  const engine: EngineConfig = { checkpoints, ...target, vae, cudaGraphs, threads }
  // At the default level, log lines of the generations would mix with the progress.
  const logger = pino({ level: 'warn' }, pino.destination(2))
  const report = await bench(
    {
      cases: listCases({ variants: chosen, precisions: flags.precision ?? precisions, sizes }),
      models,
      repeats,
      ...target,
      threads,
      fromDisk: !flags.quick,
      lora: await chooseLora(flags, chosen, context),
    },
    {
      start: () => start(engine, logger),
      surroundings: await describeSurroundings({ libraryPath: config.libraryPath }),
      signal,
      note(line) {
        stderr.write(`${line}\n`)
      },
    },
  )
  stdout.write(describeReport(report))
  if (flags.json !== undefined) await writeFile(flags.json, `${JSON.stringify(report, null, 2)}\n`)
}

/** The variants to measure; --checkpoint is one variant, dev unless --model says otherwise. */
const chooseVariants = ({ model, checkpoint }: BenchFlags): readonly Variant[] =>
  model ? [model] : checkpoint === undefined ? variants : ['dev']

const chooseCheckpoints = ({ model = 'dev', checkpoint }: BenchFlags, { checkpoints }: Config) =>
  checkpoint === undefined ? checkpoints : { ...checkpoints, [model]: resolve(checkpoint) }

const bundledLora = 'fofr--shxdo-v2.safetensors'

/** The LoRA of --lora, else a bundled one, which fits the embedded model only. */
async function chooseLora(
  { lora, checkpoint }: BenchFlags,
  chosen: readonly Variant[],
  context: RunContext,
) {
  const variant = chosen[0]!
  if (lora !== undefined) return { variant, path: await findLora(lora, context) }
  const { builtin } = context.config.loras
  if (builtin === undefined || checkpoint !== undefined || variant !== 'dev') return undefined
  return { variant, path: join(builtin, bundledLora) }
}

async function findLora(place: string, context: RunContext): Promise<string> {
  const path = await locateLora(place, context)
  if (statSync(path, { throwIfNoEntry: false })?.isFile()) return path
  throw invalidInput(
    `Expected --lora to be a file or a name that \`fluxd loras ls\` shows but received ${place}`,
  )
}

const sidePattern = /^(\d{2,4})x(\d{2,4})$/

/** Reads `WxH` in pixels. */
function readSize(text: string): PixelSize {
  const [width, height] = (sidePattern.exec(text) ?? []).slice(1).map(Number)
  const isSide = (side: number | undefined): side is number =>
    side !== undefined && side % 16 === 0 && side >= 64 && side <= 2048
  if (isSide(width) && isSide(height)) return { width, height }
  throw invalidInput(
    `Expected --size to be such as 1024x768, multiples of 16 from 64 to 2048, but received ${text}`,
  )
}

function readRepeats(text: string): number {
  if (/^[1-9]\d{0,2}$/.test(text)) return Number(text)
  throw invalidInput(`Expected --repeats to be 1 to 999 but received ${text}`)
}

/** Checked before the measurement, which would be lost otherwise. */
async function expectFolder(file: string): Promise<void> {
  try {
    await access(dirname(resolve(file)), constants.W_OK)
  } catch (error) {
    throw invalidInput(
      `Expected the folder of --json to be writable but received ${file} (${codeOf(error)})`,
    )
  }
}
