/** LoRAs that are merged on the device, in place: the tiny-dev checkpoint through the CPU twins. */
import { describe, expect, test } from 'vitest'
import {
  areLowRank,
  readLoraFactors,
  scaleFactors,
} from '../../../src/engine/lora/merge/lowRank.js'
import { listTargets } from '../../../src/engine/lora/merge/merger.js'
import { loraSetKey } from '../../../src/engine/models/loraSet.js'
import { type LowRankChanges, unchanged } from '../../../src/engine/runtime/backends/backend.js'
import type { LoraFile } from '../../../src/plan/plan.js'
import { writeLora } from '../../engine/lora/loraFiles.js'
import { mergeLoras } from '../../engine/lora/merging.js'
import { fixtureLora, loadMerged, pristine, tinyDev, velocity } from '../../engine/lora/tinyDev.js'
import { expectOutputs, goldenCase, readManifest } from '../../goldens.js'
import {
  backend,
  changesOf,
  create,
  createDice,
  golden,
  load,
  lora,
  outputsOf,
  text,
  type Use,
} from './adapting.js'
import { fusedBackend } from './kit.js'
import { relativeError } from './numbers.js'

async function lowRankChanges(
  uses: readonly { adapter: ReturnType<typeof fixtureLora>; scale: number }[],
): Promise<LowRankChanges | undefined> {
  const adapters = uses.map(({ adapter }) => adapter)
  const targets = listTargets(pristine, adapters, 'float32')
  if (!areLowRank(targets)) return undefined
  const factors = await readLoraFactors(targets, 1)
  const scales = uses.map(({ scale }) => scale)
  const files = adapters.map(({ source }) => source).join()
  return { key: loraSetKey(files, scales), files, matrices: scaleFactors(factors, scales) }
}

describe('merged in place', () => {
  const cases = readManifest().cases.filter(({ kind }) => kind === 'lora')
  let covered = 0

  test.each(cases)('$id agrees with diffusers', async ({ id, params }) => {
    const golden = goldenCase(id)
    const base = await load('bf16')
    const before = await velocity(base, golden)
    for (const output of Object.keys(golden.outputs)) {
      if (output.endsWith('bf16merge')) continue
      const scale = Number(/^scale_(.+)_fp32merge$/.exec(output)?.[1] ?? 0)
      const uses = params['adapters'].map(({ file, weight }: { file: string; weight: number }) => ({
        adapter: fixtureLora(file),
        scale: scale * weight,
      }))
      const changes = await lowRankChanges(uses)
      if (!changes) return
      covered++
      await base.adaptable!.activate(changes)
      expectOutputs(golden, { [output]: await velocity(base, golden) })
    }
    await base.adaptable!.activate(unchanged)
    expect(await velocity(base, golden)).toEqual(before)
  })

  test('are most of them', () => expect(covered).toBeGreaterThan(10))

  // Observed: 2.9e-7 and 2.6e-7; a code next to a rounding border may fall on either side. The LoRA
  // itself changes 0.48.
  test.each([
    ['bf16', 1e-6],
    ['fp8', 1e-3],
  ] as const)('in %s it is what merging before loading gives', async (precision, tolerance) => {
    const use = { adapter: fixtureLora('lora/lora_peft.safetensors'), scale: 0.6 }
    const inPlace = await load(precision)
    const base = await velocity(inPlace, golden)
    await inPlace.adaptable!.activate((await lowRankChanges([use]))!)
    const merged = await mergeLoras(pristine, [use], { rounding: 'float32', threads: 1 })
    const fresh = await loadMerged(merged, tinyDev, precision, fusedBackend('F32'))
    const [got, want] = [await velocity(inPlace, golden), await velocity(fresh, golden)]
    expect(relativeError(got, want)).toBeLessThan(tolerance)
    expect(relativeError(got, base)).toBeGreaterThan(10 * tolerance)
  })

  test('a tensor that the network does not have is refused by name', async () => {
    const one = new Float32Array(1)
    const nowhere = { rank: 1, up: one, down: one, scale: one }
    await expect(
      (await load('bf16')).adaptable!.activate({
        key: loraSetKey('nowhere', [1]),
        files: 'nowhere',
        matrices: new Map([['nowhere', nowhere]]),
      }),
    ).rejects.toThrow('Expected the name of a weight to change but got nowhere')
  })
})

const { hidden } = text.clip.params
const clipLayer = 'lora_te1_text_model_encoder_layers_0_self_attn_q_proj'
const clipOnly = writeLora({
  [`${clipLayer}.lora_down.weight`]: [2, hidden],
  [`${clipLayer}.lora_up.weight`]: [hidden, 2],
})
const sets: readonly (readonly LoraFile[])[] = [
  [],
  [lora('peft', 1)],
  [lora('peft', -0.3)],
  [lora('kohya_dense', 0.7), lora('aitoolkit', 0.4)],
  [lora('partial_qv', 1)],
  [lora('xlabs', 0.9)],
  [lora('lokr', 1)],
  [lora('loha', 0.5), lora('peft', 0.5)],
  [{ name: 'lora', path: clipOnly, scale: 1 }],
  [{ name: 'lora', path: clipOnly, scale: 0.5 }, lora('onetrainer', 1)],
]
const uses = (['bf16', 'fp8'] as const).flatMap((precision) =>
  sets.map((loras): Use => ({ precision, loras })),
)

test.each(['bf16', 'fp8'] as const)(
  '500 random switches in %s leave what a fresh transformer makes of each set',
  async (precision) => {
    // Factors that are used again at another scale stay on the device.
    const peft = await changesOf('peft')
    const two = await changesOf('kohya_dense', 'aitoolkit')
    const changes = [
      unchanged,
      ...[peft([1]), peft([-0.3]), two([0.7, 0.4]), two([0.1, -0.6])],
      (await changesOf('partial_qv'))([0.7]),
    ]
    const fresh: Float32Array[] = []
    for (const one of changes) {
      const own = await load(precision, fusedBackend('F32'))
      await own.adaptable!.activate(one)
      fresh.push(await velocity(own, golden))
    }
    const switched = await load(precision)
    const roll = createDice(changes.length)
    for (let i = 0; i < 500; i++) {
      const next = roll()
      await switched.adaptable!.activate(changes[next]!)
      expect(await velocity(switched, golden), `switch ${i} to ${next}`).toEqual(fresh[next])
    }
  },
)

test.each([Number.POSITIVE_INFINITY, 4])(
  'switches between precisions and kinds of LoRAs compute what a fresh engine does, whatever is prefetched (memory: %d)',
  async (capacity) => {
    const fresh: number[][] = []
    for (const use of uses) {
      const { models } = await create(fusedBackend('F32'))
      fresh.push(await outputsOf(models, use))
      await models.release()
    }
    expect(new Set(fresh.map(String)).size).toBe(uses.length)
    const { models } = await create(backend, capacity)
    const roll = createDice(uses.length)
    for (let i = 0; i < 80; i++) {
      const [next, { precision, loras }] = [roll(), uses[roll()]!]
      const running = outputsOf(models, uses[next]!)
      void models.prefetch(precision, loras)
      expect(await running, `switch ${i} to ${next}`).toEqual(fresh[next])
    }
    await models.release()
  },
)

test('a switch between LoRAs of low rank opens no session', async () => {
  const { models, loaded } = await create(backend)
  async function use(loras: readonly LoraFile[]) {
    const set = await models.loadLoras('bf16', loras)
    const { release } = await models.acquireTransformer('bf16', set)
    release()
  }
  for (const loras of sets.slice(0, 6)) await use(loras)
  expect(loaded).toEqual([])
  await use([lora('lokr', 1)])
  expect(loaded).toEqual(['dev bf16 with LoRAs'])
})
