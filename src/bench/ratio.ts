/** The ratio of a step's time to the least that the device needs for its work. */
import type { Precision } from '../plan/plan.js'
import type { Ceilings } from './ceilings.js'
import { round } from './statistics.js'
import type { StepWork } from './work.js'

export type Ratio = {
  /** Floating-point operations of a step, and how many of them are done in a second. */
  readonly operations: number
  readonly operationsPerSecond: number
  /** Operations for each byte that must be moved at least. */
  readonly intensity: number
  /** Seconds of a step that did only `limit`, at the device's best rate. */
  readonly ceilingSeconds: number
  readonly limit: 'products' | 'copies'
  /** `ceilingSeconds` over the measured seconds: 1 is the best possible. */
  readonly share: number
}

/** Bytes of a value between operators, and of a weight by precision. */
export type ValueBytes = {
  readonly value: number
  readonly weight: Readonly<Record<Precision, number>>
}

// The CPU computes in float32, whatever the dtype of the weights.
export const valueBytes: Readonly<Record<'cpu' | 'gpu', ValueBytes>> = {
  cpu: { value: 4, weight: { bf16: 4, fp8: 4 } },
  gpu: { value: 2, weight: { bf16: 2, fp8: 1 } },
}

/** The ratio of a step that took `seconds`. Attention is not computed in fp8. */
export function ratioOf(
  { linear, attention, weights, values }: StepWork,
  precision: Precision,
  seconds: number,
  { products, copies }: Pick<Ceilings, 'products' | 'copies'>,
  bytesOf: ValueBytes,
): Ratio {
  const operations = linear + attention
  const bytes = weights * bytesOf.weight[precision] + values * bytesOf.value
  const computing = linear / (products[precision] ?? products.bf16) + attention / products.bf16
  const moving = bytes / copies
  const ceilingSeconds = Math.max(computing, moving)
  return {
    operations: round(operations),
    operationsPerSecond: round(operations / seconds),
    intensity: round(operations / bytes),
    ceilingSeconds: round(ceilingSeconds),
    limit: computing >= moving ? 'products' : 'copies',
    share: round(ceilingSeconds / seconds),
  }
}
