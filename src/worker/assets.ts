/**
 * What a prediction needs before an engine can run it: its LoRA files on this disk and its images
 * in memory. They are fetched while another prediction runs.
 */
import { type FluxInput, fileFields } from '../contract/input.js'
import { FluxdError, invalidInput } from '../errors.js'
import type { MediaClient } from '../net/fetchMedia.js'
import type { LoraRef } from '../plan/loraRef.js'
import type { LoraFile } from '../plan/plan.js'
import type { RequestedWork } from '../predictions/request.js'

/** LoRA references become files; see loras/. */
export type LoraSource = {
  readonly acquire: (
    reference: string,
    options: { readonly signal: AbortSignal; readonly writeLine: (line: string) => void },
  ) => Promise<AcquiredLora>
  /** A file of this machine. */
  readonly open: (path: string) => Promise<AcquiredLora>
}

export type AcquiredLora = {
  readonly path: string
  /** SHA-256 of the file. */
  readonly digest: string
  /** It may be evicted from now on. */
  readonly release: () => void
  /** Where it came from and how long that took; absent for a file of this machine. */
  readonly source?: 'disk' | 'network'
  readonly seconds?: number
}

export type InputImages = {
  readonly image?: Uint8Array | undefined
  readonly mask?: Uint8Array | undefined
}

export type Assets = InputImages & {
  readonly loras: readonly LoraFile[]
  /** When work on the LoRAs began, and when they were there (`performance.now()`). */
  readonly lorasBeganAtMs: number
  readonly lorasReadyAtMs: number
  /** Gives the LoRA files back. */
  readonly release: () => void
}

export type AssetSources = {
  readonly loras: LoraSource
  readonly media: Pick<MediaClient, 'fetch'>
  readonly onLora?: (source: 'disk' | 'network', seconds: number) => void
}

type AssetContext = {
  readonly signal: AbortSignal
  readonly writeLine: (line: string) => void
}

/** Fetches everything; throws the sentence that becomes the prediction's error, or `canceled`. */
export async function fetchAssets(
  { input, loras }: RequestedWork,
  sources: AssetSources,
  context: AssetContext,
): Promise<Assets> {
  const acquired: AcquiredLora[] = []
  const release = () => {
    for (const lora of acquired.splice(0)) lora.release()
  }
  try {
    const lorasBeganAtMs = performance.now()
    const files: LoraFile[] = []
    // One after the other, as in the reference: the log lists them apart.
    for (const ref of loras) files.push(await fetchLora(ref, acquired, sources, context))
    const lorasReadyAtMs = performance.now()
    const images = await fetchImages(input, sources.media, context.signal)
    return { ...images, loras: files, lorasBeganAtMs, lorasReadyAtMs, release }
  } catch (error) {
    release()
    throw error
  }
}

async function fetchLora(
  { name, source, path, sha256, scale }: LoraRef,
  acquired: AcquiredLora[],
  { loras, onLora }: AssetSources,
  context: AssetContext,
): Promise<LoraFile> {
  const lora = await (path === undefined ? loras.acquire(source, context) : loras.open(path))
  acquired.push(lora)
  if (lora.source !== undefined) onLora?.(lora.source, lora.seconds ?? 0)
  // A version stands for the LoRAs that it was made of.
  if (sha256 !== undefined && sha256 !== lora.digest)
    throw invalidInput(`Expected ${name} to have the SHA-256 ${sha256} but received ${lora.digest}`)
  return { name, path: lora.path, digest: lora.digest, scale }
}

/** Image and mask; a mask without an image is left alone. Throws with the field's name. */
export async function fetchImages(
  input: FluxInput,
  media: Pick<MediaClient, 'fetch'>,
  signal: AbortSignal,
): Promise<InputImages> {
  if (input.image === undefined) return {}
  const [image, mask] = await Promise.all(
    fileFields.map((field) => fetchField(field, input[field], media, signal)),
  )
  return { image, mask }
}

async function fetchField(
  field: string,
  uri: string | undefined,
  media: Pick<MediaClient, 'fetch'>,
  signal: AbortSignal,
): Promise<Uint8Array | undefined> {
  if (uri === undefined) return undefined
  try {
    return await media.fetch(uri, signal)
  } catch (error) {
    if (!(error instanceof FluxdError) || error.code !== 'invalid_input') throw error
    throw new FluxdError(error.code, `${field}: ${error.message}`, { cause: error })
  }
}
