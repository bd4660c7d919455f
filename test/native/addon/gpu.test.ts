/** The addon over a CUDA library, real or emulated: FLUXD_CUDA_LIBRARY names its file. */
import { beforeAll, describe, expect, test } from 'vitest'
import type { NativeDevice } from '../../../src/engine/runtime/backends/native/addon.js'
import { addon } from './kit.js'
import { gaussian } from './numbers.js'

const library = process.env['FLUXD_CUDA_LIBRARY']

describe.skipIf(!library)('a GPU', () => {
  let device: NativeDevice
  beforeAll(() => {
    device = new addon.Device({ ordinal: 0, library: library! })
  })

  test('tells how much memory it has', () => {
    const { free, total } = device.memory()
    expect(free).toBeGreaterThan(0)
    expect(total).toBeGreaterThanOrEqual(free)
  })

  test('keeps the values of a tensor', async () => {
    const values = gaussian(1000, 1)
    const tensor = new addon.Tensor(device, 'F32', [10, 100])
    await tensor.write(values)
    expect(new Float32Array(await tensor.read())).toEqual(values)
    await tensor.release()
  })

  test('takes weights, quantises them, merges into them and lets them go', async () => {
    const weights = new addon.WeightSet(device)
    const part = { rows: 64, dtype: 'F32', data: gaussian(64 * 32, 2) } as const
    const source = { name: 'w', dims: [64, 32], dtype: 'F8_E4M3', parts: [part] } as const
    await weights.upload([source], { base: 'device', threads: 2 })
    // Codes, scales and the base, each in a place of its own.
    expect(weights.bytes()).toBe(64 * 32 + 256 + 64 * 32 * 4)
    const change = { name: 'w', begin: 8, rows: 16, rank: 2 }
    await weights.merge([{ ...change, up: gaussian(32, 3), down: gaussian(64, 4) }])
    await weights.stage([{ ...change, up: gaussian(32, 5), down: gaussian(64, 6) }])
    await weights.rescale([new Float32Array([1, 0.5])])
    await weights.swap()
    await weights.merge([])
    await weights.release()
  })

  test('that is not there is named', () => {
    expect(() => new addon.Device({ ordinal: 99, library: library! })).toThrow(/99/)
  })
})
