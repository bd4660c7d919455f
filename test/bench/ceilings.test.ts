/** The graphs that ceilings are measured with do all the work that is counted. */
import { expect, test } from 'vitest'
import { measureCeilings, productGraph } from '../../src/bench/ceilings.js'
import { type Backend, portableBackend } from '../../src/engine/runtime/backends/backend.js'
import type { Session } from '../../src/engine/runtime/backends/ort/session.js'
import { floatTensor } from '../../src/safetensors/tensor.js'

/** A matrix [rows, columns] of multiples of 1/8, which bfloat16 holds exactly. */
const matrix = (rows: number, columns: number, seed: number) =>
  Array.from({ length: rows }, (_, i) =>
    Array.from({ length: columns }, (_, j) => (((i * 7 + j * 3 + seed) % 9) - 4) / 8),
  )

const toBfloat16 = (values: readonly number[]) =>
  Uint16Array.from(new Uint32Array(Float32Array.from(values).buffer), (word) => word >>> 16)

const weight = (name: string, rows: readonly number[][]) => ({
  name,
  dtype: 'BF16' as const,
  shape: [rows.length, rows[0]!.length],
  values: toBfloat16(rows.flat()),
})

const apply = (rows: readonly number[][], x: readonly number[]) =>
  rows.map((row) => row.reduce((sum, value, i) => sum + value * x[i]!, 0))

test.each([1, 3])('a graph of %d pairs multiplies by both weights as many times', async (count) => {
  const [up, down] = [matrix(8, 4, 1), matrix(4, 8, 5)]
  const weights = { up: weight('up', up), down: weight('down', down) }
  const graph = productGraph(portableBackend, 'bf16', weights, count)
  const { session } = await portableBackend.createSessions(
    { session: { graph } },
    { threads: 1, widenWeights: 'load' },
  )
  try {
    const { first } = await session.run({ x: floatTensor(Float32Array.from([2, 5, 7]), [3, 1]) })
    // The first row is 2 plus what is added to every row.
    let expected = [0, 1, 2, 3].map((i) => 2 + i / 7)
    for (let i = 0; i < count; i++) expected = apply(down, apply(up, expected))
    expect(first!.dims).toEqual([1, 4])
    for (const [i, value] of expected.entries())
      expect(Math.abs((first!.data as Float32Array)[i]! / value - 1)).toBeLessThan(1e-5)
  } finally {
    await session.release()
  }
})

test('a cancel ends the measurement with the run that is under way', async () => {
  const canceling = new AbortController()
  let [runs, open] = [0, 0]
  const backend: Backend = {
    ...portableBackend,
    async createSessions(models, options) {
      const sessions = await portableBackend.createSessions(models, options)
      open++
      const watched = Object.entries<Session>(sessions).map(([name, session]) => [
        name,
        {
          ...session,
          run(inputs: Parameters<Session['run']>[0]) {
            if (++runs === 2) canceling.abort()
            return session.run(inputs)
          },
          async release() {
            open--
            await session.release()
          },
        },
      ])
      return Object.fromEntries(watched)
    },
  }
  const { signal } = canceling
  const measured = measureCeilings({ rows: 8, inner: 16, outer: 32 }, ['bf16'], {
    backend,
    threads: 1,
    signal,
  })
  await expect(measured).rejects.toMatchObject({ code: 'canceled' })
  expect({ runs, open }).toEqual({ runs: 2, open: 0 })
})
