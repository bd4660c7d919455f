/**
 * What a prediction needs before the engine's turn: its LoRA files on this disk and its pictures in
 * memory. It is done while another prediction runs.
 */
import { basename } from 'node:path'
import { withoutSecrets } from '../contract/redaction.js'
import { invalidInput } from '../errors.js'
import type { MediaClient } from '../net/fetchMedia.js'
import type { LoraFiles } from '../plan/loras.js'
import type { LoraFile } from '../plan/plan.js'
import { checkWish } from '../plan/planGeneration.js'
import type { LoraReference, Wish } from '../store/storedRequest.js'
import { fetchInputs, type InputFiles } from './inputImages.js'

/** LoRA references become files; see library/. */
export type LoraLibrary = {
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
}

export type Preparation = {
  readonly input: Wish['input']
  readonly files: InputFiles
  readonly loras: LoraFiles
  /** What messages call the LoRA at a path: clients are not told where files lie. */
  readonly loraNames: ReadonlyMap<string, string>
  /** When the LoRAs were there, and when work on them began (`performance.now()`). */
  readonly lorasBeganAtMs: number
  readonly lorasReadyAtMs: number
  /** Gives the LoRA files back. */
  readonly release: () => void
}

export type PreparationContext = {
  readonly library: LoraLibrary
  readonly media: Pick<MediaClient, 'fetch'>
  readonly signal: AbortSignal
  readonly writeLine: (line: string) => void
}

/** Fetches everything; throws the sentence that becomes the prediction's error, or `canceled`. */
export async function prepare(wish: Wish, context: PreparationContext): Promise<Preparation> {
  const acquired: AcquiredLora[] = []
  const loraNames = new Map<string, string>()
  const release = () => {
    for (const lora of acquired.splice(0)) lora.release()
  }
  const locate = async (reference: LoraReference): Promise<LoraFile> => {
    const { path, source, scale, sha256 } = reference
    const lora = await (path === undefined
      ? context.library.acquire(source, context)
      : context.library.open(path))
    acquired.push(lora)
    const name = path === undefined ? showReference(reference) : basename(path)
    expectDigest(name, sha256, lora)
    loraNames.set(lora.path, name)
    return { path: lora.path, digest: lora.digest, scale }
  }
  try {
    checkWish(wish.input)
    const lorasBeganAtMs = performance.now()
    const main = await inTurn(wish.loras.main, locate)
    const extra = await inTurn(wish.loras.extra, locate)
    const lorasReadyAtMs = performance.now()
    const files = await fetchInputs(wish.input, context.media, context.signal)
    const loras = nameLoras(wish, main, extra)
    const times = { lorasBeganAtMs, lorasReadyAtMs }
    return { input: wish.input, files, loras, loraNames, ...times, release }
  } catch (error) {
    release()
    throw error
  }
}

/** A single LoRA at the wish's own scale is the contract's main or extra one; the rest just follows. */
function nameLoras({ input }: Wish, main: LoraFile[], extra: LoraFile[]): LoraFiles {
  const isMain = main.length === 1 && main[0]!.scale === input.lora_scale
  const isExtra = extra.length === 1 && extra[0]!.scale === input.extra_lora_scale
  if ((main.length > 0 && !isMain) || (extra.length > 0 && !isExtra))
    return { more: [...main, ...extra] }
  return { main: main[0], extra: extra[0] }
}

const showReference = ({ source }: LoraReference) =>
  source.startsWith('data:') ? 'the data URI' : String(withoutSecrets({ source })['source'])

/** The main LoRAs are fetched before the extra ones, as in the reference: the log tells them apart. */
async function inTurn<A, B>(items: readonly A[], work: (item: A) => Promise<B>): Promise<B[]> {
  const results: B[] = []
  for (const item of items) results.push(await work(item))
  return results
}

/** A version stands for the LoRAs that it was made of. */
function expectDigest(name: string, sha256: string | undefined, { digest }: AcquiredLora): void {
  if (sha256 !== undefined && sha256 !== digest)
    throw invalidInput(`Expected ${name} to have the SHA-256 ${sha256} but received ${digest}`)
}
