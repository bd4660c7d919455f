/** What every finished picture passes before it is encoded (C-1.8). */
import { FluxdError } from '../../errors.js'
import type { GenerationPlan, PixelSize } from '../../plan/plan.js'
import type { Part } from '../models/memory.js'
import type { SafetyChecker } from '../models/safetyChecker.js'

/** A checker, and who is told of the pictures it holds back. */
export type SafetyGate = {
  readonly checker: Part<SafetyChecker>
  readonly onFlagged: (image: number) => void
  /** Why a picture could not be judged; it is flagged too. */
  readonly onError: (reason: string) => void
}

/** The gate that a plan's pictures must pass; throws where it wants one and there is none. */
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

/** Whether a picture may be handed over: tells of one that may not; without a gate all may. */
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
