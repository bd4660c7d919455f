/** Whether a plan fits into a device's memory, from the numbers that its engine sends. */
import type { MemoryEstimate } from '../../engine/protocol.js'
import { FluxdError } from '../../errors.js'
import type { ValidDraft } from '../../plan/planGeneration.js'

/** Throws `not_supported`, with the numbers, where the plan exceeds even an empty device. */
export function assertFits(
  { capacity, weights, checker, baseBytes, bytesPerPixel }: MemoryEstimate,
  { precision, size, checkSafety }: Pick<ValidDraft, 'precision' | 'size' | 'checkSafety'>,
): void {
  const parts = [...weights[precision], ...(checkSafety && checker ? [checker] : [])]
  const runBytes = baseBytes + bytesPerPixel * size.width * size.height
  const needed = parts.reduce((sum, { bytes }) => sum + bytes, runBytes)
  if (needed <= capacity) return
  const sizes = parts.map(({ name, bytes }) => `${name} ${describeBytes(bytes)}`)
  throw new FluxdError(
    'not_supported',
    `Expected a prediction that fits into ${describeBytes(capacity)} of memory but it needs ` +
      `${describeBytes(needed)}: ${[...sizes, `its run ${describeBytes(runBytes)}`].join(', ')}`,
  )
}

function describeBytes(bytes: number): string {
  const [unit, size] = bytes >= 1e9 ? ['GB', 1e9] : bytes >= 1e6 ? ['MB', 1e6] : ['kB', 1e3]
  return `${(bytes / size).toFixed(1)} ${unit}`
}
