/** `fluxd compare`: what fp8 costs in quality, as PSNR and SSIM between its images and bf16's. */
import type { LoraFile, Precision } from '../plan/plan.js'
import { resolveSeed } from '../plan/seed.js'
import type { Engine } from '../worker/engine/client.js'
import { readInputFlags, readLoraFlag } from './inputFlags.js'
import { acquireLoras } from './loras.js'
import { expectValid, type RunContext, type RunFlags, readSettings, startEngineFor } from './run.js'
import { compareImages, type Similarity } from './similarity.js'

/** No size, because custom sizes run in bf16, and no output, because no file is written. */
export type CompareFlags = Omit<
  RunFlags,
  'output' | 'format' | 'width' | 'height' | 'image' | 'mask' | 'strength' | 'quality' | 'goFast'
> & { readonly json?: boolean }

type Compared = Similarity & { readonly prompt: string; readonly seed: number }

/** Generates every prompt in both precisions from the same seeds and prints PSNR and SSIM. */
export async function compare(
  prompts: readonly string[],
  { json = false, ...flags }: CompareFlags,
  context: RunContext,
): Promise<void> {
  // PNG is lossless: what is measured is the precision, not the image format.
  const own = { seed: String(resolveSeed({})), ...flags, output: 'compared.png' }
  for (const prompt of prompts) expectValid(readInputFlags(prompt, own), readSettings(own, context))
  const { loras, release } = await acquireLoras((flags.lora ?? []).map(readLoraFlag), context)
  try {
    await compareAll(prompts, loras, { ...own, json }, context)
  } finally {
    await release()
  }
}

async function compareAll(
  prompts: readonly string[],
  loras: readonly LoraFile[],
  { json, ...own }: RunFlags & { readonly json: boolean },
  context: RunContext,
): Promise<void> {
  const engine = await startEngineFor(readInputFlags('', own).model, own.checkpoint, context)
  try {
    const compared: Compared[] = []
    for (const prompt of prompts) {
      const images = await comparePrompt(prompt, loras, own, engine, context)
      if (!json) for (const each of images) context.stdout.write(`${describe(each)}\n`)
      compared.push(...images)
    }
    const mean = meanOf(compared)
    context.stdout.write(
      json
        ? `${JSON.stringify({ pictures: compared, mean })}\n`
        : `mean of ${compared.length}: ${inWords(mean)}\n`,
    )
  } finally {
    await engine.stop()
  }
}

async function comparePrompt(
  prompt: string,
  loras: readonly LoraFile[],
  flags: RunFlags,
  engine: Engine,
  context: RunContext,
): Promise<Compared[]> {
  // Without go_fast's multiplier the LoRAs have the same strength in both precisions.
  const settings = { ...readSettings(flags, context), goFastLoraMultiplier: 1 }
  const generate = async (precision: Precision) => {
    const own = readInputFlags(prompt, { ...flags, goFast: precision === 'fp8' })
    const draft = expectValid({ ...own, disable_safety_checker: true }, settings)
    const { images } = await engine.generate({ draft, loras }, { signal: context.signal })
    return { seed: draft.seed, images }
  }
  const [bf16, fp8] = [await generate('bf16'), await generate('fp8')]
  return Promise.all(
    bf16.images.map(async ({ bytes }, i) => ({
      prompt,
      seed: bf16.seed + i,
      ...(await compareImages(bytes, fp8.images[i]!.bytes)),
    })),
  )
}

/** The mean of the decibel values, not of the squared errors. */
function meanOf(compared: readonly Similarity[]): Similarity {
  const mean = (measure: keyof Similarity) =>
    compared.reduce((sum, each) => sum + each[measure], 0) / compared.length
  return { psnr: mean('psnr'), ssim: mean('ssim') }
}

const describe = ({ prompt, seed, ...likeness }: Compared) =>
  `${inWords(likeness)}  ${prompt} (seed ${seed})`

const inWords = ({ psnr, ssim }: Similarity) =>
  `PSNR ${psnr.toFixed(1)} dB, SSIM ${ssim.toFixed(4)}`
