/** The Euler loop from noise to latents. */

import type { Predict } from '../models/transformer.js'

/** The latents that replace those of a step, at noise level `sigma`. */
export type MaskBlend = (latents: Float32Array, sigma: number) => Float32Array

export type DenoiseOptions = {
  /** Inpainting restores the pixels that the mask keeps, after each step. */
  readonly blend?: MaskBlend | undefined
  readonly signal?: AbortSignal
  /** Awaited after each step, with the number of steps done and the step's velocity. */
  readonly onStep?: (done: number, latents: Float32Array, velocity: Float32Array) => unknown
}

/**
 * Packed latents at noise level 0. `latents` are at level `sigmas[0]`; one step per pair of
 * neighbouring levels, x ← x + (σ' − σ)·velocity, in float32. Throws when `signal` aborts.
 */
export async function denoise(
  predict: Predict,
  latents: Float32Array,
  sigmas: readonly number[],
  { blend, signal, onStep }: DenoiseOptions = {},
): Promise<Float32Array> {
  let x = latents
  for (let step = 0; step < sigmas.length - 1; step++) {
    signal?.throwIfAborted()
    const velocity = await predict(x, step, signal)
    x = eulerStep(x, velocity, sigmas[step + 1]! - sigmas[step]!)
    if (blend) x = blend(x, sigmas[step + 1]!)
    await onStep?.(step + 1, x, velocity)
  }
  signal?.throwIfAborted()
  return x
}

function eulerStep(x: Float32Array, velocity: Float32Array, dt: number): Float32Array {
  const next = new Float32Array(x.length)
  for (let i = 0; i < x.length; i++) next[i] = x[i]! + dt * velocity[i]!
  return next
}
