import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { z } from 'zod'
import { openCatalog } from '../../src/catalog/catalog.js'
import type { Model } from '../../src/catalog/model.js'
import { applyModel, inputSchemaOf } from '../../src/catalog/resolveInput.js'
import { FluxInput } from '../../src/contract/input.js'
import { inputJsonSchema } from '../../src/contract/jsonSchema.js'
import { checkpoints, models } from './folders.js'

const catalog = await openCatalog({
  folders: { bundled: join(models, 'catalog'), own: '/nonexistent' },
  checkpoints,
})
const flux = catalog.find('fluxd', 'flux')!
const np = catalog.find('bocaaa', 'np')!
const model: Model = {
  ...flux,
  base: 'schnell',
  loras: [
    { source: './a.safetensors', path: '/loras/a.safetensors', scale: 0.5, sha256: 'a' },
    { source: 'huggingface.co/b/c', scale: -1 },
  ],
  defaults: { num_inference_steps: 4, guidance_scale: 2 },
}
const prompt = 'a red circle'
const apply = (sent: Record<string, unknown>, to = model) =>
  applyModel(to, { prompt, ...sent }, catalog)

describe('the wish', () => {
  test('of the plain base is the published one', () => {
    expect(apply({ seed: 7 }, flux).wish).toEqual(FluxInput.parse({ prompt, seed: 7 }))
  })

  test('has the model’s defaults where nothing was sent, its base for `model`', () => {
    expect(apply({}).wish).toEqual(
      FluxInput.parse({ prompt, model: 'schnell', num_inference_steps: 4, guidance_scale: 2 }),
    )
    expect(apply({ model: 'dev', guidance_scale: 3 }).wish).toMatchObject({
      model: 'dev',
      guidance_scale: 3,
      num_inference_steps: 4,
    })
  })

  test('takes the names that sibling models use, unless both were sent', () => {
    expect(apply({ guidance: 1 }).wish.guidance_scale).toBe(1)
    expect(apply({ guidance: 1, guidance_scale: 5 }).wish.guidance_scale).toBe(5)
    const { wish } = apply({ lora_weights: 'x/y', lora_scale: 0.5 })
    expect(wish.replicate_weights).toBe('x/y')
    expect(apply({ lora_weights: 'x/y', replicate_weights: 'v/w' }).wish.replicate_weights).toBe(
      'v/w',
    )
  })

  test.each([
    ['prompt', { prompt: undefined }],
    ['guidance_scale', { guidance: 11 }],
    ['num_outputs', { num_outputs: '2' }],
    ['replicate_weights', { lora_weights: 7 }],
  ])('is refused with the issue of %s', (field, sent) => {
    let thrown: unknown
    try {
      apply(sent)
    } catch (error) {
      thrown = error
    }
    expect(thrown).toBeInstanceOf(z.ZodError)
    expect((thrown as z.ZodError).issues).toEqual([expect.objectContaining({ path: [field] })])
  })
})

describe('the LoRAs', () => {
  test('are the model’s, with their scales times lora_scale', () => {
    expect(apply({}).loras).toEqual({ main: model.loras, extra: [] })
    expect(apply({ lora_scale: 2, go_fast: true }).loras.main.map(({ scale }) => scale)).toEqual([
      1, -2,
    ])
  })

  test('are replaced by replicate_weights; an empty one is none', () => {
    const { main } = apply({ replicate_weights: 'x/y', lora_scale: 0.5 }).loras
    expect(main).toEqual([{ source: 'x/y', scale: 0.5 }])
    expect(apply({ replicate_weights: '' }).loras.main).toEqual(model.loras)
  })

  test('are followed by extra_lora', () => {
    expect(apply({ extra_lora: 'x/y', extra_lora_scale: 0.3, lora_scale: 2 }).loras.extra).toEqual([
      { source: 'x/y', scale: 0.3 },
    ])
    expect(apply({ extra_lora: '' }).loras.extra).toEqual([])
  })

  test.each(['bocaaa/np', `bocaaa/np/${np.version}`, `bocaaa/np:${np.version}`])(
    'named %s are those of the model served here',
    (reference) => {
      const { loras } = apply({
        replicate_weights: reference,
        extra_lora: reference,
        lora_scale: 2,
      })
      expect(loras).toEqual({ main: [{ ...np.loras[0], scale: 2 }], extra: np.loras })
    },
  )

  test('named by a version of elsewhere are those of the model served here', () => {
    const { loras } = catalog.find('jose0012kjo', '2vinij2')!
    expect(apply({ extra_lora: 'jose0012kjo/2vinij2/fab4f589' }).loras.extra).toEqual(loras)
    const unknown = 'jose0012kjo/2vinij2/fab4f58a'
    expect(apply({ extra_lora: unknown }).loras.extra).toEqual([{ source: unknown, scale: 1 }])
  })

  test.each([
    `bocaaa/np/${'0'.repeat(64)}`,
    'fluxd/flux',
    'https://replicate.com/bocaaa/np',
    '/etc/passwd',
    '../../secret.safetensors',
  ])('named %s are left to be fetched, never a path', (reference) => {
    const { main } = apply({ replicate_weights: reference }).loras
    expect(main).toEqual([{ source: reference, scale: 1 }])
  })
})

describe('the Input schema', () => {
  test('of the plain base is the published one', () => {
    expect(inputSchemaOf(flux)).toEqual(inputJsonSchema())
  })

  test('differs from it in the model’s defaults only', () => {
    const expected = structuredClone(inputJsonSchema()) as { properties: Record<string, object> }
    expected.properties['model'] = { ...expected.properties['model'], default: 'schnell' }
    for (const [name, value] of Object.entries(model.defaults))
      expected.properties[name] = { ...expected.properties[name], default: value }
    expect(inputSchemaOf(model)).toEqual(expected)
  })
})
