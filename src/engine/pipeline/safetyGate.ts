/** The check that an image passes before it is encoded (C-1.8). */
import { FluxdError } from '../../errors.js'
import type { GenerationPlan, PixelSize } from '../../plan/plan.js'
import type { ManagedModel } from '../models/memory.js'
import type { SafetyChecker } from '../models/safetyChecker.js'

/** A checker, and the callbacks for the images that it holds back. */
export type SafetyGate = {
  readonly checker: ManagedModel<SafetyChecker>
  readonly onFlagged: (image: number) => void
  /** Why an image could not be judged; it is flagged, too. */
  readonly onError: (reason: string) => void
}

/** The gate of a plan's images; throws where the plan has `checkSafety` and there is no checker. */
export function chooseGate(
  { checkSafety }: Pick<GenerationPlan, 'checkSafety'>,
  safety: SafetyGate | undefined,
): SafetyGate | undefined {
  if (!checkSafety) return undefined
  if (safety) return safety
  throw new FluxdError(
    'engine_failed',
    'Expected a safety checker, as the plan wants one, but the engine was started without',
  )
}

/** Whether an image is safe (all are without a gate); calls the gate's callbacks otherwise. */
export async function isSafe(
  gate: SafetyGate | undefined,
  rgb: Uint8Array,
  size: PixelSize,
  image: number,
): Promise<boolean> {
  if (!gate) return true
  const verdict = await gate.checker.network().check(rgb, size)
  if (verdict.kind === 'safe') return true
  if (verdict.kind === 'unknown') gate.onError(verdict.reason)
  gate.onFlagged(image)
  return false
}
