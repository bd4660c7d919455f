/**
 * The factor alpha / rank of a low-rank change, from the `.alpha` scalar beside it, or from the
 * adapter config that PEFT and diffusers write into the file's metadata.
 * Source: kohya sd-scripts, networks/lora_flux.py; diffusers, loaders/peft.py; peft, tuners/lora.
 */
import { z } from 'zod'
import { firstFault, invalidLora } from '../../../errors.js'
import type { SafetensorsFile, TensorSlice } from '../../../safetensors/read.js'
import { readScalar } from '../../../safetensors/scalar.js'
import type { LoraKey } from './keys.js'

export type Scaling = {
  /** alpha / rank of the module, given the `.alpha` tensor if the file has one. */
  readonly factor: (key: LoraKey, alpha: TensorSlice | undefined, rank: number) => number
}

const numbers = z.record(z.string(), z.number())
const Config = z.object({
  r: z.number().positive(),
  lora_alpha: z.number(),
  rank_pattern: numbers.nullish().transform((value) => value ?? {}),
  alpha_pattern: numbers.nullish().transform((value) => value ?? {}),
  use_rslora: z.boolean().nullish(),
})
type Config = z.output<typeof Config>

/** How the changes of `file` are scaled. Throws `lora_invalid` for metadata that makes no sense. */
export function readScaling(file: SafetensorsFile): Scaling {
  const configs = {
    transformer: readConfig(file, 'transformer.'),
    clip: readConfig(file, 'text_encoder.'),
  }
  return {
    factor(key, alpha, rank) {
      if (alpha) return alphaOf(file.name, alpha, rank) / rank
      const config = configs[key.network]
      const factor = config ? configFactor(file.name, config, key, rank) : 1
      if (isFloat32(factor)) return factor
      throw invalidLora(
        `${file.name}: expected a finite alpha of ${key.stem} in lora_adapter_metadata but alpha / rank is ${factor}`,
      )
    },
  }
}

function readConfig({ name: path, metadata }: SafetensorsFile, prefix: string): Config | undefined {
  const text = metadata['lora_adapter_metadata']
  if (text === undefined) return undefined
  const own = Object.entries(parseJson(path, text))
    .filter(([name]) => name.startsWith(prefix))
    .map(([name, value]) => [name.slice(prefix.length), value])
  if (own.length === 0) return undefined
  const parsed = Config.safeParse(Object.fromEntries(own))
  if (parsed.success) return parsed.data
  throw invalidLora(`${path}: lora_adapter_metadata: ${firstFault(parsed.error)}`)
}

function parseJson(path: string, text: string): object {
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

function configFactor(path: string, config: Config, { name, stem }: LoraKey, rank: number): number {
  const expected = patternValue(config.rank_pattern, name) ?? config.r
  if (expected !== rank)
    throw invalidLora(
      `${path}: expected ${stem} of rank ${expected}, as lora_adapter_metadata says, but it is ${rank}`,
    )
  const alpha = patternValue(config.alpha_pattern, name) ?? config.lora_alpha
  return alpha / (config.use_rslora ? Math.sqrt(rank) : rank)
}

// A pattern is a module's name or its end. PEFT would allow a regular expression, which nobody
// writes and a stranger's file must not run here.
const patternValue = (patterns: Readonly<Record<string, number>>, name: string) =>
  Object.entries(patterns)
    .map(([pattern, value]) => [pattern.replace(/^\^|\$$/g, ''), value] as const)
    .find(([pattern]) => name === pattern || name.endsWith(`.${pattern}`))?.[1]

// The values that it scales are float32: what is infinite there makes NaN of them.
const isFloat32 = (value: number) => Number.isFinite(Math.fround(value))

// Trainers treat an alpha of 0 as "the rank".
function alphaOf(path: string, slice: TensorSlice, rank: number): number {
  const alpha = readScalar(slice)
  if (alpha === undefined)
    throw invalidLora(
      `${path}: expected ${slice.name} to be one number but it is ${slice.dtype} [${slice.shape}]`,
    )
  if (!isFloat32(alpha))
    throw invalidLora(`${path}: expected a finite number in ${slice.name} but it is ${alpha}`)
  return alpha === 0 ? rank : alpha
}
