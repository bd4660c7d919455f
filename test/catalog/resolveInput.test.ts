import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { z } from 'zod'
import { openCatalog } from '../../src/catalog/catalog.js'
import type { Model } from '../../src/catalog/model.js'
import { inputSchemaOf, resolveInput } from '../../src/catalog/resolveInput.js'
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
  resolveInput(to, { prompt, ...sent }, catalog)

describe('the input', () => {
  test('of the plain base is the published one', () => {
    expect(apply({ seed: 7 }, flux).input).toEqual(FluxInput.parse({ prompt, seed: 7 }))
  })

  test('has the model’s defaults where nothing was sent, its base for `model`', () => {
    expect(apply({}).input).toEqual(
      FluxInput.parse({ prompt, model: 'schnell', num_inference_steps: 4, guidance_scale: 2 }),
    )
    expect(apply({ model: 'dev', guidance_scale: 3 }).input).toMatchObject({
      model: 'dev',
      guidance_scale: 3,
      num_inference_steps: 4,
    })
  })

  test('takes the names that sibling models use, unless both were sent', () => {
    expect(apply({ guidance: 1 }).input.guidance_scale).toBe(1)
    expect(apply({ guidance: 1, guidance_scale: 5 }).input.guidance_scale).toBe(5)
    const { input } = apply({ lora_weights: 'x/y', lora_scale: 0.5 })
    expect(input.replicate_weights).toBe('x/y')
    expect(apply({ lora_weights: 'x/y', replicate_weights: 'v/w' }).input.replicate_weights).toBe(
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
  const own = [
    { role: 'main', name: 'a.safetensors', ...model.loras[0] },
    { role: 'main', name: 'huggingface.co/b/c', ...model.loras[1] },
  ]

  test('are the model’s, with their scales times lora_scale', () => {
    expect(apply({}).loras).toEqual(own)
    expect(apply({ lora_scale: 2, go_fast: true }).loras.map(({ scale }) => scale)).toEqual([1, -2])
  })

  test('are replaced by replicate_weights; an empty one is none', () => {
    expect(apply({ replicate_weights: 'x/y', lora_scale: 0.5 }).loras).toEqual([
      { role: 'main', name: 'x/y', source: 'x/y', scale: 0.5 },
    ])
    expect(apply({ replicate_weights: '' }).loras).toEqual(own)
  })

  test('are followed by extra_lora, whose scale is its own', () => {
    const { loras } = apply({ extra_lora: 'x/y', extra_lora_scale: 0.3, lora_scale: 2 })
    expect(loras.slice(2)).toEqual([{ role: 'extra', name: 'x/y', source: 'x/y', scale: 0.3 }])
    expect(apply({ extra_lora: '' }).loras).toHaveLength(2)
  })

  test('keep their role whatever scale the model of the catalog gives them', () => {
    const scaled = { ...np, loras: [{ ...np.loras[0]!, scale: 0.9 }] }
    const { loras } = resolveInput(
      flux,
      { prompt, extra_lora: 'bocaaa/np' },
      { find: (_, name) => (name === 'np' ? scaled : undefined) },
    )
    expect(loras).toMatchObject([{ role: 'extra', scale: 0.9 }])
  })

  test.each(['bocaaa/np', `bocaaa/np/${np.version}`, `bocaaa/np:${np.version}`])(
    'named %s are those of the model served here',
    (reference) => {
      const input = { replicate_weights: reference, extra_lora: reference, lora_scale: 2 }
      expect(apply(input).loras).toMatchObject([
        { ...np.loras[0], role: 'main', scale: 2 },
        { ...np.loras[0], role: 'extra' },
      ])
    },
  )

  test('named by a version of elsewhere are those of the model served here', () => {
    const { loras } = catalog.find('jose0012kjo', '2vinij2')!
    const extraOf = (extra_lora: string) => apply({ extra_lora }).loras.slice(2)
    expect(extraOf('jose0012kjo/2vinij2/fab4f589')).toMatchObject(loras)
    const unknown = 'jose0012kjo/2vinij2/fab4f58a'
    expect(extraOf(unknown)).toMatchObject([{ source: unknown, scale: 1 }])
  })

  test.each([
    `bocaaa/np/${'0'.repeat(64)}`,
    'fluxd/flux',
    'https://replicate.com/bocaaa/np',
    '/etc/passwd',
    '../../secret.safetensors',
  ])('named %s are left to be fetched, never a path', (reference) => {
    const { loras } = apply({ replicate_weights: reference })
    expect(loras).toEqual([{ role: 'main', name: reference, source: reference, scale: 1 }])
  })

  test.each([
    ['https://me:s3cret@a.example/x.safetensors?token=s3cret', /^(?!.*s3cret)https:.*a\.example/],
    ['data:application/x-tar;base64,AAAA', /^data:application\/x-tar…$/],
  ])('are called by a name without secrets: %s', (replicate_weights, name) => {
    expect(apply({ replicate_weights }).loras[0]!.name).toMatch(name)
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
