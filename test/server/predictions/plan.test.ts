/** What of a request reaches the engine, and how often. */
import { join } from 'node:path'
import sharp from 'sharp'
import { expect, test } from 'vitest'
import { openCatalog } from '../../../src/catalog/catalog.js'
import { resolveInput } from '../../../src/catalog/resolveInput.js'
import { checkpoints, models } from '../../catalog/folders.js'
import { lorasOf, openPredictions, request } from './testPredictions.js'

const bundled = await openCatalog({
  folders: { bundled: join(models, 'catalog'), own: '/nonexistent' },
  checkpoints,
})
const base = bundled.find('fluxd', 'flux')!
const np = bundled.find('bocaaa', 'np')!
const acquired = { path: '/lora', digest: '0'.repeat(64), release: () => {} }

// The reference prints the line when an extra LoRA was sent and no main one, whatever its scale.
test.each([1, 0.9])(
  'an extra LoRA that names a catalog model of scale %d is logged as promoted',
  async (scale) => {
    const model = { ...np, loras: [{ source: 'huggingface.co/b/c', scale }] }
    const catalog = { find: (_: string, name: string) => (name === 'np' ? model : undefined) }
    const sent = { prompt: 'p', num_inference_steps: 1, extra_lora: 'bocaaa/np' }
    const { predictions, engine } = await openPredictions({ loras: lorasOf(async () => acquired) })
    const { input, loras } = resolveInput(base, sent, catalog)
    const { id } = await predictions.create(request({ loras }, input))
    const { logs } = await predictions.waitUntilTerminal(id)
    expect(logs.split('\n')).toContain(
      "extra_lora_weights bocaaa/np were found, and lora_weights were None! This shouldn't happen. " +
        'Setting lora_weights to bocaaa/np and lora_scale to extra_lora_scale: 1.0 and running.',
    )
    expect(engine.requests).toMatchObject([{ loras: [{ scale }] }])
  },
)

test('the bytes of an image and a mask cross to the engine once', async () => {
  const { predictions, engine } = await openPredictions()
  const create = { width: 32, height: 16, channels: 3, background: 'red' } as const
  const image = await sharp({ create }).png().toBuffer()
  const mask = await sharp({ create: { ...create, background: 'white' } })
    .png()
    .toBuffer()
  const toUri = (bytes: Buffer) => `data:image/png;base64,${bytes.toString('base64')}`
  const fields = { image: toUri(image), mask: toUri(mask) }
  const { id } = await predictions.create(request({}, fields))
  expect(await predictions.waitUntilTerminal(id)).toMatchObject({ status: 'succeeded' })
  expect(engine.requests).toHaveLength(1)
  const [sent] = engine.requests
  expect(Buffer.from(sent!.image!).equals(image)).toBe(true)
  expect(Buffer.from(sent!.mask!).equals(mask)).toBe(true)
  expect(JSON.stringify(sent!.draft)).not.toContain('base64')
})
