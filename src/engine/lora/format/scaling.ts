/**
 * The factor alpha / rank of a low-rank change, from the `.alpha` scalar next to it, or from the
 * adapter config that PEFT and diffusers write into the file's metadata.
 * Source: kohya sd-scripts, networks/lora_flux.py; diffusers, loaders/peft.py; peft, tuners/lora.
 */
import { isDeepStrictEqual } from 'node:util'
import { z } from 'zod'
import { firstFault, invalidLora } from '../../../errors.js'
import type { SafetensorsFile, TensorSlice } from '../../../safetensors/read.js'
import { readScalar } from '../../../safetensors/scalar.js'
import type { LoraKey } from './keys.js'
import { compilePattern } from './pattern.js'
import { type Network, networkNamed } from './wrappers.js'

export type Scaling = {
  /** alpha / rank of the module, given the `.alpha` tensor if the file has one. */
  readonly factor: (key: LoraKey, alpha: TensorSlice | undefined, rank: number) => number
}

const numbers = z
  .record(z.string(), z.number())
  .nullish()
  .transform((value) => value ?? {})
const Config = z.object({
  r: z.number().positive(),
  lora_alpha: z.number(),
  rank_pattern: numbers,
  alpha_pattern: numbers,
  use_rslora: z.boolean().nullish(),
})

/** How a network's changes are scaled. */
type Config = {
  readonly rankOf: (module: string) => number
  readonly alphaOf: (module: string) => number
  readonly useRslora: boolean
}

type Configs = Readonly<Record<Network, Config | undefined>>

/** How the changes of `file` are scaled. Throws `lora_invalid` for metadata that makes no sense. */
export function readScaling(file: SafetensorsFile): Scaling {
  const text = file.metadata['lora_adapter_metadata']
  const configs = text === undefined ? 'none' : readConfigs(file.name, text)
  return {
    factor(key, alpha, rank) {
      if (alpha) return readAlpha(file.name, alpha) / rank
      if (configs === 'none') return 1
      const config = configs[key.network]
      if (!config) throw noConfig(file.name, key)
      const factor = configFactor(file.name, config, key, rank)
      if (isFloat32(factor)) return factor
      throw invalidLora(
        `${file.name}: expected a finite alpha of ${key.stem} in lora_adapter_metadata ` +
          `but alpha / rank is ${factor}`,
      )
    },
  }
}

const noConfig = (path: string, { stem, network }: LoraKey) =>
  invalidLora(
    `${path}: expected r and lora_alpha of ${stem} in lora_adapter_metadata ` +
      `but it has none for the ${network}`,
  )

const fields = Object.keys(Config.shape)

/**
 * The configs of a file's networks. Entries are named `<network>.<field>`, the network as in keys;
 * diffusers' save_lora_adapter leaves it out, and then they hold for every network without its own.
 */
function readConfigs(path: string, text: string): Configs | 'none' {
  const entries = Object.entries(parseJson(path, text))
  if (entries.length === 0) return 'none'
  const byNetwork = new Map<Network | undefined, Record<string, unknown>>()
  for (const [prefix, config] of groupByPrefix(entries)) {
    const network = prefix === '' ? undefined : networkNamed(prefix)
    if (prefix !== '' && !network) continue
    const other = byNetwork.get(network)
    if (other && !isDeepStrictEqual(other, config))
      throw invalidLora(`${path}: expected one config of the ${network} in lora_adapter_metadata`)
    byNetwork.set(network, config)
  }
  const ofAll = byNetwork.get(undefined)
  const read = (network: Network) => {
    const config = byNetwork.get(network) ?? ofAll
    return config && toConfig(path, config)
  }
  return { transformer: read('transformer'), clip: read('clip') }
}

function groupByPrefix(entries: readonly (readonly [string, unknown])[]) {
  const groups = new Map<string, Record<string, unknown>>()
  for (const [name, value] of entries) {
    const dot = name.lastIndexOf('.')
    const field = name.slice(dot + 1)
    if (!fields.includes(field)) continue
    const prefix = name.slice(0, Math.max(dot, 0))
    groups.set(prefix, { ...groups.get(prefix), [field]: value })
  }
  return groups
}

function toConfig(path: string, given: Record<string, unknown>): Config {
  const parsed = Config.safeParse(given)
  if (!parsed.success)
    throw invalidLora(`${path}: lora_adapter_metadata: ${firstFault(parsed.error)}`)
  const { r, lora_alpha, rank_pattern, alpha_pattern, use_rslora } = parsed.data
  return {
    rankOf: lookUp(path, rank_pattern, r),
    alphaOf: lookUp(path, alpha_pattern, lora_alpha),
    useRslora: use_rslora ?? false,
  }
}

// A pattern for each of Flux.1's layers has some 500 entries of some 40 steps.
const maxSteps = 50_000

/** The value of the first pattern that fits a module, as PEFT chooses it. */
function lookUp(path: string, patterns: Readonly<Record<string, number>>, otherwise: number) {
  let steps = 0
  const compiled = Object.entries(patterns).map(([pattern, value]) => {
    try {
      const { matches, size } = compilePattern(pattern)
      steps += size
      return { matches, value }
    } catch (cause) {
      if (!(cause instanceof SyntaxError)) throw cause
      throw invalidLora(
        `${path}: expected a pattern in lora_adapter_metadata but in ` +
          `${JSON.stringify(pattern.slice(0, 100))} ${cause.message}`,
        cause,
      )
    }
  })
  if (steps > maxSteps)
    throw invalidLora(
      `${path}: expected patterns of at most ${maxSteps} steps in lora_adapter_metadata ` +
        `but they have ${steps}`,
    )
  return (module: string) => compiled.find(({ matches }) => matches(module))?.value ?? otherwise
}

// Patterns for every layer of Flux.1 have some 60,000 characters.
const maxJsonLength = 2 ** 20

function parseJson(path: string, text: string): object {
  if (text.length > maxJsonLength)
    throw invalidLora(
      `${path}: expected at most ${maxJsonLength} characters in lora_adapter_metadata ` +
        `but there are ${text.length}`,
    )
  try {
    const value: unknown = JSON.parse(text)
    if (typeof value === 'object' && value !== null) return value
  } catch (cause) {
    throw invalidLora(`${path}: expected JSON in lora_adapter_metadata`, cause)
  }
  throw invalidLora(
    `${path}: expected an object in lora_adapter_metadata but got ${text.slice(0, 100)}`,
  )
}

function configFactor(path: string, config: Config, key: LoraKey, rank: number): number {
  const { parts } = key.module
  // Patterns are written for diffusers' modules.
  const module = parts.length === 1 ? parts[0]!.name : key.name
  const expected = config.rankOf(module)
  if (expected !== rank)
    throw invalidLora(
      `${path}: expected ${key.stem} of rank ${expected}, as lora_adapter_metadata says, ` +
        `but it is ${rank}`,
    )
  return config.alphaOf(module) / (config.useRslora ? Math.sqrt(rank) : rank)
}

// The values that it scales are float32: what is infinite there makes NaN of them.
const isFloat32 = (value: number) => Number.isFinite(Math.fround(value))

function readAlpha(path: string, slice: TensorSlice): number {
  const alpha = readScalar(slice)
  if (alpha === undefined)
    throw invalidLora(
      `${path}: expected ${slice.name} to be one number but it is ${slice.dtype} [${slice.shape}]`,
    )
  if (isFloat32(alpha)) return alpha
  throw invalidLora(`${path}: expected a finite number in ${slice.name} but it is ${alpha}`)
}
