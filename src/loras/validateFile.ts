/** The check of a downloaded file before it enters the cache: it must be a safetensors file. */
import { FluxdError, invalidLora } from '../errors.js'
import { otherKind, readStart } from '../safetensors/kind.js'
import { openSafetensors } from '../safetensors/read.js'

// A LoRA's header takes some hundred kilobytes, with a trainer's metadata a few megabytes, and
// names some thousand tensors. Parsing it blocks the event loop, so its size is bounded.
const loraLimits = { bytes: 2 ** 24, tensors: 20_000 }

/**
 * Throws `lora_invalid` unless the file at `path` has a sound safetensors header with tensors in
 * it; messages call the file `shown`. The tensors' values are not read.
 */
export function validateLoraFile(path: string, shown: string): void {
  if (countTensors(path, shown) === 0)
    throw invalidLora(`Expected tensors in ${shown} but it holds none`)
}

function countTensors(path: string, shown: string): number {
  try {
    return openSafetensors(path, { limits: loraLimits }).tensors.size
  } catch (cause) {
    if (!(cause instanceof FluxdError)) throw cause
    const other = otherKind(readStart(path), loraLimits.bytes)
    if (other) throw invalidLora(`Expected a safetensors file at ${shown} but it is ${other}`)
    throw invalidLora(cause.message.replaceAll(path, shown), cause)
  }
}
