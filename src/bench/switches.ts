/** Seconds from one set of LoRAs to another, and from one variant to another. */
import { copyFileSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import type { GenerationPlan, LoraFile, Variant } from '../plan/plan.js'
import { requestOf } from './cases.js'
import { type Measuring, rounded } from './images.js'
import { cachedShare, dropFromCache } from './pageCache.js'
import { type Spread, spreadOf } from './statistics.js'

export type LoraSwitches = {
  /** To a file that had been dropped from the page cache. */
  readonly cold: Spread
  /** The share of it that the cache held nevertheless, at worst. */
  readonly coldCached: number | undefined
  /** To a file that the page cache holds. */
  readonly warm: Spread
  /** The same, prefetched while the engine made the image before. */
  readonly prepared: Spread
  /** To another scale of the same file. */
  readonly scaleOnly: Spread
  /** Back to the model without LoRAs. */
  readonly none: Spread
}

export type VariantSwitch = {
  readonly to: Variant
  /** An image of one step, after one of the other variant. */
  readonly after: Spread
  /** The same once more. */
  readonly again: Spread
}

type Seconds<Name extends string> = Record<Name, number[]>

/** Switches `rounds` times through copies of the LoRA at `path`, each of them another file. */
export async function measureLoraSwitches(
  plan: GenerationPlan,
  path: string,
  rounds: number,
  { engine, signal }: Measuring,
): Promise<LoraSwitches> {
  const folder = mkdtempSync(join(tmpdir(), 'fluxd-bench-'))
  const copy = (name: string) => {
    const target = join(folder, `${name}.safetensors`)
    copyFileSync(path, target)
    return target
  }
  const options = { ...(signal && { signal }) }
  const oneStep = { ...plan, steps: plan.firstStep + 1 }
  const at = (path: string, scale = 1): LoraFile => ({ name: basename(path), path, scale })
  const switchTo = async (...loras: LoraFile[]) =>
    (await engine.generate(requestOf({ ...oneStep, loras }), options)).timings.lora
  const seconds: Seconds<'cold' | 'warm' | 'prepared' | 'scaleOnly' | 'none'> = {
    cold: [],
    warm: [],
    prepared: [],
    scaleOnly: [],
    none: [],
  }
  const cached: (number | undefined)[] = []
  try {
    const [cold, warm, before, next] = [copy('cold'), copy('warm'), copy('before'), copy('next')]
    await switchTo()
    for (let i = 0; i < rounds; i++) {
      await dropFromCache([cold])
      cached.push(await cachedShare([cold]))
      seconds.cold.push(await switchTo(at(cold)))
      seconds.warm.push(await switchTo(at(warm)))
      seconds.scaleOnly.push(await switchTo(at(warm, 0.5)))
      seconds.none.push(await switchTo())
      await switchTo(at(before))
      engine.prefetch(requestOf(plan).draft, [at(next)])
      // Waits for the prefetch, so that the measured switch does not.
      await switchTo(at(before))
      seconds.prepared.push(await switchTo(at(next)))
    }
  } finally {
    rmSync(folder, { recursive: true })
  }
  const known = cached.filter((share) => share !== undefined)
  return {
    cold: rounded(spreadOf(seconds.cold)),
    coldCached: known.length === 0 ? undefined : Math.max(...known),
    warm: rounded(spreadOf(seconds.warm)),
    prepared: rounded(spreadOf(seconds.prepared)),
    scaleOnly: rounded(spreadOf(seconds.scaleOnly)),
    none: rounded(spreadOf(seconds.none)),
  }
}

/** Alternates between the plans' variants; seconds are those from the request to its image. */
export async function measureVariantSwitches(
  plans: readonly GenerationPlan[],
  rounds: number,
  { engine, signal }: Measuring,
): Promise<VariantSwitch[]> {
  const wait = async (plan: GenerationPlan) => {
    const startedAt = performance.now()
    await engine.generate(requestOf({ ...plan, steps: plan.firstStep + 1 }), {
      ...(signal && { signal }),
    })
    return (performance.now() - startedAt) / 1000
  }
  const seconds = plans.map((): Seconds<'after' | 'again'> => ({ after: [], again: [] }))
  // The first round is not measured: it loads the variants.
  for (const plan of plans) await wait(plan)
  for (let i = 0; i < rounds; i++)
    for (const [index, plan] of plans.entries()) {
      seconds[index]!.after.push(await wait(plan))
      seconds[index]!.again.push(await wait(plan))
    }
  return plans.map(({ variant }, index) => ({
    to: variant,
    after: rounded(spreadOf(seconds[index]!.after)),
    again: rounded(spreadOf(seconds[index]!.again)),
  }))
}
