/** The files behind a wish's URIs, and the plan that follows from them. */
import { type FluxInput, fileFields } from '../contract/input.js'
import { FluxdError } from '../errors.js'
import type { MediaClient } from '../net/fetchMedia.js'
import type { GenerationPlan } from '../plan/plan.js'
import { type Circumstances, planGeneration } from '../plan/planGeneration.js'
import { drawSeed } from '../plan/seed.js'
import type { Engine } from './engine/client.js'

export type InputFiles = {
  readonly image?: Uint8Array | undefined
  readonly mask?: Uint8Array | undefined
}

/** Fetches image and mask; a mask without an image is left alone. Throws with the field's name. */
export async function fetchInputs(
  input: FluxInput,
  media: Pick<MediaClient, 'fetch'>,
  signal: AbortSignal,
): Promise<InputFiles> {
  if (input.image === undefined) return {}
  const [image, mask] = await Promise.all(
    fileFields.map(async (field) => {
      const uri = input[field]
      return uri === undefined ? undefined : fetchField(field, uri, media, signal)
    }),
  )
  return { image, mask }
}

async function fetchField(
  field: string,
  uri: string,
  media: Pick<MediaClient, 'fetch'>,
  signal: AbortSignal,
) {
  try {
    return await media.fetch(uri, signal)
  } catch (error) {
    if (!(error instanceof FluxdError) || error.code !== 'invalid_input') throw error
    throw new FluxdError(error.code, `${field}: ${error.message}`, { cause: error })
  }
}

/** What the server's settings decide for every plan. */
export type PlanSettings = Pick<Circumstances, 'noise' | 'goFastLoraMultiplier' | 'safetyChecker'>

/** The plan of a wish, whose seed is drawn and whose image is measured by the engine. */
export async function decide(
  input: FluxInput,
  { image: bytes, mask }: InputFiles,
  settings: PlanSettings,
  engine: Pick<Engine, 'measure'>,
  loras?: Circumstances['loras'],
): Promise<GenerationPlan> {
  const image = bytes && { bytes, size: await engine.measure(bytes) }
  return planGeneration(input, { ...settings, drawnSeed: drawSeed(), image, mask, loras })
}
