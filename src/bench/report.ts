/** What `fluxd bench` writes as JSON. Times are seconds, sizes bytes, rates per second. */
import { z } from 'zod'
import { precisions, variants } from '../plan/plan.js'

const positive = z.number().positive()
const share = z.number().min(0).max(1)
const Spread = z.strictObject({ median: positive, low: positive, high: positive })
/** Seconds that may be 0. */
const Wait = z.strictObject({
  median: z.number().min(0),
  low: z.number().min(0),
  high: z.number().min(0),
})

/** The machine, the engine and the versions of a measurement. */
export const Machine = z.strictObject({
  cpu: z.string(),
  cores: z.int().positive(),
  memory: positive,
  card: z.strictObject({ name: z.string(), memory: positive }).optional(),
})

export const Versions = z.strictObject({
  fluxd: z.string(),
  node: z.string(),
  onnxruntime: z.string(),
  driver: z.string().optional(),
  cuda: z.string().optional(),
})

const Model = z.strictObject({
  variant: z.enum(variants),
  width: z.int().positive(),
  doubleBlocks: z.int().positive(),
  singleBlocks: z.int().positive(),
  textTokens: z.int().positive(),
  /** Of the weights' files. */
  bytes: positive,
})

const Start = z.strictObject({
  variant: z.enum(variants),
  cached: share.optional(),
  process: positive,
  load: positive,
  firstPicture: positive,
})

const Picture = z.strictObject({
  variant: z.enum(variants),
  precision: z.enum(precisions),
  width: z.int().positive(),
  height: z.int().positive(),
  steps: z.int().positive(),
  repeats: z.int().positive(),
  picture: Spread,
  step: Spread,
  stages: z.strictObject({
    prompt: z.number().min(0),
    denoise: positive,
    decode: positive,
    encode: positive,
  }),
  outsideOrt: z.number().max(1),
  ratio: z.strictObject({
    operations: positive,
    operationsPerSecond: positive,
    intensity: positive,
    ceilingSeconds: positive,
    limit: z.enum(['products', 'copies']),
    share: positive,
  }),
})

const LoraSwitches = z.strictObject({
  variant: z.enum(variants),
  bytes: positive,
  cold: Wait,
  coldCached: share.optional(),
  warm: Wait,
  prepared: Wait,
  scaleOnly: Wait,
  none: Wait,
})

export const BenchReport = z.strictObject({
  date: z.iso.datetime(),
  device: z.enum(['cpu', 'cuda']),
  /** The library that ran the graphs: onnxruntime-node or the addon. */
  backend: z.enum(['ort', 'native']),
  /** 0 lets ONNX Runtime decide. */
  threads: z.int().min(0),
  machine: Machine,
  /** Processes ready to run, in the minute before and in the last minute. */
  load: z.strictObject({ before: z.number().min(0), after: z.number().min(0) }),
  versions: Versions,
  models: z.array(Model).min(1),
  starts: z.array(Start).min(1),
  pictures: z.array(Picture).min(1),
  loraSwitches: LoraSwitches.optional(),
  variantSwitches: z.array(z.strictObject({ to: z.enum(variants), after: Spread, again: Spread })),
  ceilings: z.strictObject({
    shape: z.strictObject({
      rows: z.int().positive(),
      inner: z.int().positive(),
      outer: z.int().positive(),
    }),
    products: z.strictObject({ bf16: positive, fp8: positive.optional() }),
    copies: positive,
  }),
  /** At the peak, before the ceilings were measured. */
  memory: z.strictObject({
    engine: positive.optional(),
    device: z.number().min(0).optional(),
  }),
})
export type BenchReport = z.infer<typeof BenchReport>
