/** Predictions with LoRAs, one after another in one engine: the tiny random-weight checkpoint. */

import { copyFileSync } from 'node:fs'
import { join } from 'node:path'
import { pino } from 'pino'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { requestOf } from '../../../src/bench/cases.js'
import type { GenerationEvent } from '../../../src/engine/protocol.js'
import type { LoraFile } from '../../../src/plan/plan.js'
import { type Engine, startEngine } from '../../../src/worker/engine/client.js'
import { writeLora } from '../../engine/lora/loraFiles.js'
import { fixturePath } from '../../goldens.js'
import { temporaryFolder } from '../../weightFiles.js'
import { foxPlan as plan } from './foxPlan.js'

const lora = (name: string, scale: number): LoraFile => ({
  name: 'lora',
  path: fixturePath(`lora/lora_${name}.safetensors`),
  scale,
})

let engine: Engine
beforeAll(() => {
  const checkpoints = { dev: fixturePath('tiny-dev'), schnell: fixturePath('tiny-schnell') }
  engine = startEngine({ checkpoints, threads: 1 }, pino({ level: 'silent' }))
})
afterAll(() => engine.stop())

const draw = async (...loras: LoraFile[]) =>
  (await engine.generate(requestOf({ ...plan, loras }))).images[0]!.bytes

test('sets of LoRAs in any order give the pictures each gives alone', async () => {
  const sets = [
    [],
    [lora('kohya', 1)],
    [lora('kohya', 0.5)],
    [lora('aitoolkit', 1), lora('kohya_dense', -0.7)],
    [lora('lokr', 1)],
  ]
  const alone = []
  for (const set of sets) alone.push(await draw(...set))
  expect(new Set(alone.map((bytes) => Buffer.from(bytes).toString('base64'))).size).toBe(5)
  for (const i of [3, 0, 2, 1, 4, 1, 0, 3, 2]) expect(await draw(...sets[i]!)).toEqual(alone[i])
})

test('an engine whose weights do not change in place is none the worse for knowing what comes next', async () => {
  const want = await draw(lora('kohya', 1))
  const next = [
    [lora('aitoolkit', 1)],
    [lora('kohya', 1)],
    [{ name: 'lora', path: '/nowhere', scale: 1 }],
  ]
  for (const loras of next) {
    engine.prefetch(requestOf(plan).draft, loras)
    expect(await draw(lora('kohya', 1))).toEqual(want)
  }
})

test('the same LoRA under two naming schemes gives the same picture', async () => {
  expect(await draw(lora('kohya', 1))).toEqual(await draw(lora('peft', 1)))
})

test('a LoRA of scale 0 changes nothing', async () => {
  expect(await draw(lora('kohya', 0))).toEqual(await draw())
})

test('a file that is no LoRA fails its own prediction and leaves the engine as it was', async () => {
  const before = await draw(lora('kohya', 1))
  const bad = { name: 'lora', path: fixturePath('tiny-dev-bfl/ae.safetensors'), scale: 1 }
  await expect(draw(bad)).rejects.toMatchObject({ code: 'lora_invalid' })
  await expect(
    draw({ name: 'lora', path: '/nowhere.safetensors', scale: 1 }),
  ).rejects.toMatchObject({
    code: 'lora_invalid',
    message: 'lora: expected a LoRA file but nothing is there',
  })
  expect(await draw(lora('kohya', 1))).toEqual(before)
})

test('a file that changed is read again', async () => {
  const path = join(temporaryFolder(), 'lora.safetensors')
  copyFileSync(lora('kohya', 1).path, path)
  const first = await draw({ name: 'lora', path, scale: 1 })
  copyFileSync(lora('lokr', 1).path, path)
  expect(await draw({ name: 'lora', path, scale: 1 })).toEqual(await draw(lora('lokr', 1)))
  expect(first).toEqual(await draw(lora('kohya', 1)))
})

test('what of a LoRA is not merged is told with the others', async () => {
  const key = 'lora_te2_encoder_block_0_layer_0_SelfAttention_q.lora_down.weight'
  const path = writeLora({
    'transformer.transformer_blocks.0.attn.to_q.lora_A.weight': [2, 32],
    'transformer.transformer_blocks.0.attn.to_q.lora_B.weight': [32, 2],
    [key]: [2, 7],
  })
  const notes: string[] = []
  const onEvent = (event: GenerationEvent) => {
    if (event.kind === 'lorasReady') notes.push(...event.notes)
  }
  const loras = [lora('kohya', 1), { name: 'other.safetensors', path, scale: 1 }]
  for (let time = 0; time < 2; time++)
    await engine.generate(requestOf({ ...plan, loras }), { onEvent })
  const note = `other.safetensors: 1 of its tensors are not merged, the first is ${key}`
  expect(notes).toEqual([note, note])
})
