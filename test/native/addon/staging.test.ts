/** What comes next is uploaded while something runs: nothing shows before its turn, and all of it then. */
import { copyFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { type LowRankChanges, unchanged } from '../../../src/engine/runtime/backends/backend.js'
import { velocity } from '../../engine/lora/tinyDev.js'
import { fixturePath } from '../../goldens.js'
import { temporaryFolder } from '../../weightFiles.js'
import {
  changesOf,
  countingBackend,
  create,
  createDice,
  golden,
  load,
  lora,
  outputsOf,
} from './adapting.js'
import { fusedBackend } from './kit.js'

const precisions = ['bf16', 'fp8'] as const

/** What each set makes of a transformer that has never known another. */
async function freshVelocities(changes: readonly LowRankChanges[]) {
  const fresh = { bf16: [] as Float32Array[], fp8: [] as Float32Array[] }
  for (const precision of precisions)
    for (const one of changes) {
      const own = await load(precision, fusedBackend('F32'))
      await own.adaptable!.activate(one)
      fresh[precision].push(await velocity(own, golden))
    }
  return fresh
}

test('500 random switches with sets staged beside runs leave what a merge makes of each', async () => {
  const peft = await changesOf('peft')
  const changes = [
    unchanged,
    ...[peft([1]), peft([-0.3])],
    (await changesOf('kohya_dense', 'aitoolkit'))([0.7, 0.4]),
    (await changesOf('partial_qv'))([0.7]),
  ]
  const fresh = await freshVelocities(changes)
  // Two networks that have some of their weights in common.
  const { calls, backend } = countingBackend()
  const switched = { bf16: await load('bf16', backend), fp8: await load('fp8', backend) }
  const roll = createDice(60)
  let [precision, now] = [precisions[0], 0] as [(typeof precisions)[number], number]
  for (let i = 0; i < 500; i++) {
    const { activate, stage } = switched[precision].adaptable!
    await activate(changes[now]!)
    const running = velocity(switched[precision], golden)
    const next = roll() % changes.length
    const staging = stage(changes[next]!)
    expect(await running, `run ${i} of ${now}, beside ${next}`).toEqual(fresh[precision][now])
    // Most often what was staged comes next, and not always before its staging is over.
    now = roll() < 40 ? next : roll() % changes.length
    if (roll() < 15) precision = precisions[roll() % 2]!
    if (roll() < 30) await staging
  }
  for (const count of Object.values(calls)) expect(count).toBeGreaterThan(50)
})

describe('a prefetched set of LoRAs', () => {
  const open = async () => {
    const { calls, backend } = countingBackend()
    const { models, warnings } = await create(backend)
    Object.assign(calls, { merge: 0, stage: 0, swap: 0, rescale: 0 })
    return { calls, models, warnings }
  }
  const [one, two] = [[lora('peft', 1)], [lora('kohya_dense', 0.7), lora('aitoolkit', 0.4)]]
  // A transformer has two sets of weights: its conditioning's and its steps'.
  const forEachSet = (calls: Readonly<Record<string, number>>) =>
    Object.fromEntries(Object.entries(calls).map(([name, count]) => [name, 2 * count]))
  const bf16 = (loras = one) => ({ precision: 'bf16', loras }) as const

  test('costs nothing but a swap, also back and forth', async () => {
    const { calls, models } = await open()
    const want = [await outputsOf(models, bf16(one)), await outputsOf(models, bf16(two))]
    await models.prefetch('bf16', one)
    Object.assign(calls, { merge: 0, stage: 0 })
    for (const i of [0, 1, 0]) expect(await outputsOf(models, bf16([one, two][i]))).toEqual(want[i])
    expect(calls).toEqual(forEachSet({ merge: 0, stage: 0, swap: 3, rescale: 0 }))
  })

  test('is not read again', async () => {
    const { models } = await open()
    const path = join(temporaryFolder(), 'a.safetensors')
    copyFileSync(one[0]!.path, path)
    const known = [{ ...one[0]!, path, digest: 'sha256:5f' }]
    await outputsOf(models, bf16(two))
    await models.prefetch('bf16', known)
    rmSync(path)
    const got = await outputsOf(models, bf16(known))
    expect(got).toEqual(await outputsOf((await open()).models, bf16(one)))
  })

  test('gives way to another one, at the price that it had before', async () => {
    const { calls, models } = await open()
    const three = [lora('xlabs', 0.9)]
    const want = await outputsOf((await open()).models, bf16(three))
    await outputsOf(models, bf16(one))
    await models.prefetch('bf16', two)
    expect(await outputsOf(models, bf16(three))).toEqual(want)
    expect(calls).toEqual(forEachSet({ merge: 2, stage: 1, swap: 0, rescale: 0 }))
    // It stays where it is.
    await outputsOf(models, bf16(two))
    expect(calls).toEqual(forEachSet({ merge: 2, stage: 1, swap: 1, rescale: 0 }))
  })

  test('at another scale is what is in use already', async () => {
    const { calls, models } = await open()
    await outputsOf(models, bf16(one))
    await models.prefetch('bf16', [lora('peft', 0.5)])
    await outputsOf(models, bf16([lora('peft', 0.5)]))
    expect(calls).toEqual(forEachSet({ merge: 1, stage: 0, swap: 0, rescale: 1 }))
  })

  test('is none where the transformer of that precision is not loaded', async () => {
    const { calls, models } = await open()
    await models.prefetch('fp8', one)
    await outputsOf(models, bf16(two))
    await models.prefetch('fp8', one)
    expect(calls.stage).toBe(0)
  })

  test('whose file is broken or missing says so when its turn comes, and disturbs nothing', async () => {
    const { models, warnings } = await open()
    const path = join(temporaryFolder(), 'broken.safetensors')
    writeFileSync(path, 'no LoRA')
    const before = await outputsOf(models, bf16(one))
    for (const bad of [path, '/nowhere.safetensors', fixturePath('tiny-dev-bfl/ae.safetensors')]) {
      const use = bf16([{ name: 'lora', path: bad, scale: 1 }])
      await models.prefetch('bf16', use.loras)
      await expect(outputsOf(models, use)).rejects.toMatchObject({ code: 'lora_invalid' })
      await models.prefetch('bf16', use.loras)
      expect(await outputsOf(models, bf16(one))).toEqual(before)
    }
    // Each of the three files, each time it was prefetched.
    expect(warnings).toHaveLength(6)
    expect(warnings[0]).toMatch(/^LoRAs for the next prediction of dev could not be prefetched: /)
  })

  test('that is under way when the networks go ends with them', async () => {
    const { backend } = countingBackend()
    const { models } = await create(backend)
    await outputsOf(models, bf16(one))
    const prefetching = models.prefetch('bf16', two)
    await models.release()
    await prefetching
    await models.prefetch('bf16', two)
  })
})
