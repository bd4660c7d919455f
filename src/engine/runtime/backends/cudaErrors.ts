/** Turns failures on the GPU into errors that say whether this process can go on. */
import { FluxdError } from '../../../errors.js'

/**
 * `engine_failed` with the words of CUDA or ONNX Runtime, or `engine_died` where this process has
 * lost the GPU. `what` completes "Expected …"; `advice` follows the reason.
 */
export function gpuFailure(what: string, cause: unknown, advice = ''): FluxdError {
  if (cause instanceof FluxdError) return cause
  const words = wordsOf(cause)
  return new FluxdError(
    isLasting.test(words) ? 'engine_died' : 'engine_failed',
    `Expected ${what} but it failed (${words})${advice}`,
    { cause },
  )
}

/** A session could not be opened. */
export const loadFailure = (cause: unknown) =>
  gpuFailure(
    'ONNX Runtime to open the graph on the GPU',
    cause,
    '; `fluxd doctor` shows what is missing',
  )

export const runFailure = (cause: unknown) =>
  gpuFailure('ONNX Runtime to run the graph on the GPU', cause)

// After an error of CUDA, nothing runs in this process any more, unless only memory was lacking.
// The first line is ONNX Runtime's way to say so, the second that of native/cuda.
const isLasting = new RegExp(
  [
    /\b(CUDA failure (?!2:)|CUBLAS failure (?!3:)|CUDNN failure )/,
    /\banswered (cuda(?!ErrorMemoryAllocation\b)|CUBLAS_STATUS_(EXECUTION_FAILED|INTERNAL_ERROR)\b)/,
  ]
    .map(({ source }) => source)
    .join('|'),
)

// What follows in CUDA's errors names this machine and places in sources.
const wordsOf = (cause: unknown) => String(cause).split(' ; ')[0]!.trim()
