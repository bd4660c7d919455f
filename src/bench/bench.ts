/** Measures an engine on this machine: one measurement after the other, never two at once. */
import { statSync } from 'node:fs'
import { constants, loadavg, setPriority } from 'node:os'
import { hiddenSize, mlpHidden } from '../engine/flux/params.js'
import { type BackendKind, type Device, openBackend } from '../engine/runtime/backends/open.js'
import type { Variant } from '../plan/plan.js'
import type { Engine } from '../worker/engine/client.js'
import { type BenchCase, nameCase, planOf } from './cases.js'
import { type Ceilings, measureCeilings, type ProductShape } from './ceilings.js'
import { type ImageSeconds, type Measuring, measureImages } from './images.js'
import type { Surroundings } from './machine.js'
import { peakResidentBytes, watchDeviceMemory } from './memory.js'
import type { BenchModel } from './model.js'
import { ratioOf, valueBytes } from './ratio.js'
import { BenchReport } from './report.js'
import { measureStart } from './starts.js'
import { round } from './statistics.js'
import { measureLoraSwitches, measureVariantSwitches } from './switches.js'
import { imageTokens, stepWork } from './work.js'

export type BenchSettings = {
  readonly cases: readonly BenchCase[]
  /** One for each variant of the cases. */
  readonly models: readonly BenchModel[]
  readonly repeats: number
  /** Whether the start is also measured with nothing in the page cache. */
  readonly fromDisk: boolean
  /** The LoRA to switch to and from. */
  readonly lora: { readonly variant: Variant; readonly path: string } | undefined
  readonly device: Device
  /** The engine's; ceilings are measured with the same. */
  readonly backend: BackendKind
  readonly threads: number
}

export type BenchContext = {
  readonly start: () => Engine
  readonly surroundings: Surroundings
  readonly signal?: AbortSignal
  /** Called with the name of the next measurement. */
  readonly note: (line: string) => void
}

type Measured = {
  readonly timings: readonly ImageSeconds[]
  readonly switches: Pick<BenchReport, 'loraSwitches' | 'variantSwitches'>
  readonly memory: BenchReport['memory']
}

/** Measures everything and returns the report. Throws what the engine throws. */
export async function bench(settings: BenchSettings, context: BenchContext): Promise<BenchReport> {
  const { cases, models, device, backend, threads } = settings
  const loadBefore = loadOfMachine()
  const starts = await measureStarts(settings, context)
  const measured = await measureEngine(settings, context)
  context.note('matrix products and copies')
  // The engine's priority: with a higher one, this process would get more of a busy machine.
  setPriority(constants.priority.PRIORITY_BELOW_NORMAL)
  const ceilings = await measureCeilings(
    largestShape(settings),
    cases.map(({ precision }) => precision),
    { backend: openBackend(device, backend), threads, signal: context.signal },
  )
  return BenchReport.parse({
    date: new Date().toISOString(),
    device,
    backend,
    threads,
    ...context.surroundings,
    load: { before: loadBefore, after: loadOfMachine() },
    models: models.map(describeModel),
    starts,
    pictures: cases.map((each, i) =>
      describePicture(each, measured.timings[i]!, settings, ceilings),
    ),
    ...measured.switches,
    ceilings: describeCeilings(ceilings),
    memory: measured.memory,
  })
}

async function measureStarts(
  { cases, models, fromDisk }: BenchSettings,
  { start, signal, note }: BenchContext,
): Promise<BenchReport['starts'][number][]> {
  const starts: BenchReport['starts'][number][] = []
  for (const { variant, files } of models)
    for (const isDropped of fromDisk ? [true, false] : [false]) {
      note(`start of ${variant}${isDropped ? ', weights dropped from the page cache' : ''}`)
      const plan = planOf(firstCase(cases, variant))
      const seconds = await measureStart(plan, { start, files, fromDisk: isDropped, signal })
      starts.push({ variant, ...seconds })
    }
  return starts
}

async function measureEngine(settings: BenchSettings, context: BenchContext): Promise<Measured> {
  const { cases, repeats, device } = settings
  const watch = device === 'cpu' ? undefined : await watchDeviceMemory()
  const engine = context.start()
  const measuring = { engine, signal: context.signal }
  try {
    const timings: ImageSeconds[] = []
    for (const each of cases) {
      context.note(`${nameCase(each)}, ${repeats} times`)
      timings.push(await measureImages((i) => planOf(each, i), repeats, measuring))
    }
    const switches = await measureSwitches(settings, measuring, context.note)
    const pid = engine.pid()
    const resident = pid === undefined ? undefined : peakResidentBytes(pid)
    return { timings, switches, memory: { engine: resident, device: await watch?.stop() } }
  } finally {
    await watch?.stop()
    await engine.stop()
  }
}

async function measureSwitches(
  { cases, models, lora, repeats }: BenchSettings,
  measuring: Measuring,
  note: BenchContext['note'],
): Promise<Measured['switches']> {
  const plans = models.map(({ variant }) => planOf(firstCase(cases, variant)))
  if (plans.length > 1) note('switches between variants')
  const variantSwitches =
    plans.length > 1 ? await measureVariantSwitches(plans, repeats, measuring) : []
  note(lora ? 'switches between LoRAs' : 'no switches between LoRAs: none was given')
  if (!lora) return { variantSwitches }
  const { variant, path } = lora
  const plan = planOf(firstCase(cases, variant))
  const seconds = await measureLoraSwitches(plan, path, repeats, measuring)
  const loraSwitches = { variant, bytes: statSync(path).size, ...seconds }
  return { variantSwitches, loraSwitches }
}

const loadOfMachine = () => round(loadavg()[0]!)

const firstCase = (cases: readonly BenchCase[], variant: Variant) =>
  cases.find((each) => each.variant === variant)!

const modelOf = ({ models }: BenchSettings, variant: Variant) =>
  models.find((each) => each.variant === variant)!

/** A feed-forward layer for the largest image: two thirds of a block's products with weights. */
function largestShape(settings: BenchSettings): ProductShape {
  const shapes = settings.cases.map(({ variant, size }) => {
    const { params, textTokens } = modelOf(settings, variant)
    const rows = textTokens + imageTokens(size)
    return { rows, inner: hiddenSize(params), outer: mlpHidden(params) }
  })
  const elements = ({ rows, inner, outer }: ProductShape) => rows * inner * outer
  return shapes.reduce((largest, each) => (elements(each) > elements(largest) ? each : largest))
}

const describeModel = ({ variant, params, textTokens, bytes }: BenchModel) => ({
  variant,
  textTokens,
  bytes,
  width: hiddenSize(params),
  doubleBlocks: params.doubleBlocks,
  singleBlocks: params.singleBlocks,
})

function describePicture(
  { variant, precision, size, steps }: BenchCase,
  seconds: ImageSeconds,
  settings: BenchSettings,
  ceilings: Ceilings,
) {
  const { params, textTokens } = modelOf(settings, variant)
  const work = stepWork(params, textTokens, size)
  const bytes = valueBytes[settings.device === 'cpu' ? 'cpu' : 'gpu']
  const ratio = ratioOf(work, precision, seconds.step.median, ceilings, bytes)
  const { repeats } = settings
  return { variant, precision, ...size, steps, repeats, ...seconds, ratio }
}

const describeCeilings = ({ shape, products, copies }: Ceilings) => ({
  shape,
  products: {
    bf16: round(products.bf16),
    ...(products.fp8 !== undefined && { fp8: round(products.fp8) }),
  },
  copies: round(copies),
})
