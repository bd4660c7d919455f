/**
 * The flags of `fluxd run` and `fluxd compare` as the `FluxInput` that an HTTP body would hold;
 * files become data URIs, which is what an HTTP client would send.
 */
import { existsSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { extname } from 'node:path'
import { FluxInput } from '../contract/input.js'
import { describeIssue } from '../contract/validation.js'
import { FluxdError, invalidInput } from '../errors.js'

/** As commander names them; numbers are still text, and no value has been checked. */
export type InputFlags = {
  /** A file, or `-` for stdout; by default a name that is free. */
  readonly output?: string
  /** `webp`, `jpg` or `png`, where no file name says it. */
  readonly format?: string
  readonly model?: string
  readonly steps?: string
  readonly seed?: string
  readonly width?: string
  readonly height?: string
  readonly aspectRatio?: string
  readonly megapixels?: string
  readonly guidance?: string
  readonly numOutputs?: string
  readonly quality?: string
  readonly goFast?: boolean
  /** Paths or URLs; `withFileUris` leaves URLs only. */
  readonly image?: string
  readonly mask?: string
  readonly strength?: string
}

/** Schnell is distilled for four steps; the contract's default, 28, is dev's. */
const usualSteps: Readonly<Record<string, string>> = { schnell: '4' }

/** The flag that sets each field, for errors. */
const flagOf: Readonly<Record<string, string>> = {
  model: '--model',
  num_inference_steps: '--steps',
  seed: '--seed',
  width: '--width',
  height: '--height',
  aspect_ratio: '--aspect-ratio',
  megapixels: '--megapixels',
  guidance_scale: '--guidance',
  num_outputs: '--num-outputs',
  output_quality: '--quality',
  go_fast: '--go-fast',
  image: '--image',
  mask: '--mask',
  prompt_strength: '--strength',
}

const formats: Readonly<Record<string, FluxInput['output_format']>> = {
  '.webp': 'webp',
  '.jpg': 'jpg',
  '.jpeg': 'jpg',
  '.png': 'png',
}

/**
 * The validated input; `image` and `mask` must be URLs. A width or a height means `custom`. Throws
 * `invalid_input` for the first wrong value, naming its flag.
 */
export function readInputFlags(prompt: string, flags: InputFlags): FluxInput {
  const isCustom = flags.width !== undefined || flags.height !== undefined
  const parsed = FluxInput.safeParse(
    {
      prompt,
      model: flags.model,
      num_inference_steps: toNumber(flags.steps ?? usualSteps[flags.model ?? '']),
      seed: toNumber(flags.seed),
      width: toNumber(flags.width),
      height: toNumber(flags.height),
      aspect_ratio: isCustom ? 'custom' : flags.aspectRatio,
      megapixels: flags.megapixels,
      guidance_scale: toNumber(flags.guidance),
      num_outputs: toNumber(flags.numOutputs),
      output_quality: toNumber(flags.quality),
      go_fast: flags.goFast,
      image: flags.image,
      mask: flags.mask,
      prompt_strength: toNumber(flags.strength),
      output_format: chooseFormat(flags),
    } satisfies Partial<Record<keyof FluxInput, unknown>>,
    { reportInput: true },
  )
  if (parsed.success) return parsed.data
  const issue = parsed.error.issues[0]!
  const field = String(issue.path[0])
  const flag = flagOf[field] ?? field
  const received = flags[toOption(flag)] ?? 'nothing'
  throw invalidInput(`${flag}: ${describeIssue(issue).msg} but received ${received}`)
}

/** `out.webp` or, if files of that name exist, `out2.webp`, `out3.webp`, … */
export function chooseOutput(format: FluxInput['output_format'], count: number): string {
  for (let attempt = 1; ; attempt++) {
    const output = `out${attempt === 1 ? '' : attempt}.${format}`
    if (!listPaths(output, count).some((path) => existsSync(path))) return output
  }
}

/** The files of `count` images: `star.webp`, or `star-1.webp`, `star-2.webp`, … */
export function listPaths(output: string, count: number): string[] {
  if (count === 1) return [output]
  const extension = extname(output)
  const stem = output.slice(0, output.length - extension.length)
  return Array.from({ length: count }, (_, index) => `${stem}-${index + 1}${extension}`)
}

/** The property of a flag: `numOutputs` of `--num-outputs`. */
const toOption = (flag: string) =>
  flag.slice(2).replace(/-(.)/g, (_, letter: string) => letter.toUpperCase()) as keyof InputFlags

/** The format by the extension of a file's name, else by --format. */
function chooseFormat({ output, format = 'webp' }: InputFlags): FluxInput['output_format'] {
  if (output === undefined || output === '-') return readFormat(format)
  const named = formats[extname(output).toLowerCase()]
  if (named) return named
  throw invalidInput(
    `Expected --output to end in ${Object.keys(formats).join(', ')} but received ${output}`,
  )
}

function readFormat(text: string): FluxInput['output_format'] {
  const format = formats[`.${text}`]
  if (format) return format
  throw invalidInput(`Expected --format to be webp, jpg or png but received ${text}`)
}

/** A text that is no number becomes NaN, which the schema refuses. */
const toNumber = (text: string | undefined) =>
  text === undefined ? undefined : text.trim() === '' ? Number.NaN : Number(text)

/** A LoRA of the command line: a file, a name or a reference, and its scale. */
export type LoraFlag = { readonly place: string; readonly scale: number }

/** `PLACE` or `PLACE:SCALE`; the scale has the bounds of the contract's lora_scale. */
export function readLoraFlag(flag: string): LoraFlag {
  const [, place = flag, scale = '1'] = /^(.+):(-?[\d.]+)$/.exec(flag) ?? []
  const parsed = FluxInput.shape.lora_scale.safeParse(Number(scale))
  if (!parsed.success)
    throw invalidInput(`Expected the scale of --lora to be -1 to 3 but received ${scale}`)
  return { place, scale: parsed.data }
}

/** `flags` with `image` and `mask` as data URIs where they are files. Throws `invalid_input`. */
export async function withFileUris<F extends InputFlags>(flags: F): Promise<F> {
  return {
    ...flags,
    ...(flags.image !== undefined && { image: await toUri('--image', flags.image) }),
    ...(flags.mask !== undefined && { mask: await toUri('--mask', flags.mask) }),
  }
}

async function toUri(flag: string, place: string): Promise<string> {
  if (/^(https?|data):/i.test(place)) return place
  try {
    return `data:;base64,${await readFile(place, 'base64')}`
  } catch (cause) {
    const message = `Expected ${flag} to be a file or URL but received ${place}`
    throw new FluxdError('invalid_input', message, { cause })
  }
}
