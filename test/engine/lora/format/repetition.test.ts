/** One change under several spellings counts once; two changes of one tensor are refused. */
import { describe, expect, test } from 'vitest'
import { readLora } from '../../../../src/engine/lora/format/read.js'
import { openSafetensors } from '../../../../src/safetensors/read.js'
import { hashed } from '../../../weightFiles.js'
import { number, values, writeLora } from '../loraFiles.js'
import { tinyDev } from '../tinyDev.js'

type File = Parameters<typeof writeLora>[0]

const read = (file: File) =>
  readLora(openSafetensors(writeLora(file)), { transformer: tinyDev.params })

const [rows, rank, columns] = [96, 4, 32]
const down = hashed(1, rank * columns)
const up = hashed(2, rows * rank)
const half = (data: Float32Array, shape: readonly number[]) => {
  const bits = new Uint32Array(data.buffer, data.byteOffset, data.length)
  const bytes = new Uint8Array(Uint16Array.from(bits, (each) => each >>> 16).buffer)
  return { dtype: 'BF16', shape, bytes }
}
const lora = (name: string, from = 0, to = rows, store = values): File => ({
  [`${name}.lora_down.weight`]: store(down, [rank, columns]),
  [`${name}.lora_up.weight`]: store(up.slice(from * rank, to * rank), [to - from, rank]),
})

const block = 'transformer_blocks.0.attn'
const parts = ['to_q', 'to_k', 'to_v']
const split = (prefix: string): File =>
  Object.assign(
    {},
    ...parts.map((part, i) => {
      const name = `${prefix}${prefix.endsWith('_') ? block.replaceAll('.', '_') : block}`
      return lora(`${name}${prefix.endsWith('_') ? '_' : '.'}${part}`, 32 * i, 32 * (i + 1))
    }),
  )
const fused = (store = values) => lora('lora_unet_double_blocks_0_img_attn_qkv', 0, rows, store)

describe('the same change', () => {
  test.each<[string, File, File]>([
    ['transformer. and lora_unet_', split('transformer.'), split('lora_unet_')],
    ['lora_transformer_ and lora_unet_', split('lora_transformer_'), split('lora_unet_')],
    ['transformer. and diffusion_model.', split('transformer.'), split('diffusion_model.')],
    ['no prefix and base_model.model.', split(''), split('base_model.model.')],
    ["a fused layer and its parts, kohya's and diffusers'", split('transformer.'), fused()],
    ['a fused layer and its parts in BF16', split('transformer.'), fused(half)],
  ])('counts once as %s', (_, one, other) => {
    const names = parts.map((part) => `${block}.${part}.weight`)
    for (const file of [
      { ...one, ...other },
      { ...other, ...one },
    ]) {
      const { deltas, ignored } = read(file)
      expect([...deltas.keys()].sort()).toEqual([...names].sort())
      for (const [change, ...more] of deltas.values()) {
        expect(change!.kind).toBe('lowRank')
        expect(more).toEqual([])
      }
      expect([Object.keys(one), Object.keys(other)].map((each) => each.sort())).toContainEqual(
        [...ignored].sort(),
      )
    }
  })

  test('leaves what only one of the spellings has', () => {
    const more = lora('lora_unet_transformer_blocks_1_attn_to_k', 0, 32)
    const { deltas } = read({ ...split('transformer.'), ...split('lora_unet_'), ...more })
    expect(deltas.size).toBe(4)
  })
})

describe('another change of the same tensor is refused', () => {
  const message = /expected one change per layer but \S+ is changed by \S+ and, differently, by /
  const q = `transformer.${block}.to_q`
  test.each<[string, File]>([
    [
      'of other values',
      { ...lora(q, 0, 32), ...lora('lora_unet_transformer_blocks_0_attn_to_q', 32, 64) },
    ],
    [
      'of another alpha',
      {
        ...lora(q, 0, 32),
        ...lora('lora_unet_transformer_blocks_0_attn_to_q', 0, 32),
        'lora_unet_transformer_blocks_0_attn_to_q.alpha': number(2),
      },
    ],
    [
      'with magnitudes',
      {
        ...lora(q, 0, 32),
        ...lora('lora_unet_transformer_blocks_0_attn_to_q', 0, 32),
        'lora_unet_transformer_blocks_0_attn_to_q.dora_scale': [32, 1],
      },
    ],
    ['of a part only', { ...fused(), ...lora(q, 32, 64) }],
  ])('%s', (_, file) => {
    expect(() => read(file)).toThrow(message)
  })
})
