/** test/bench/steps.ts, which is made for a GPU, on the CPU. */
import { expect, test } from 'vitest'
import { describeTimes, measureSteps } from '../../bench/steps.js'
import { tinyDev } from '../../engine/lora/tinyDev.js'

test('every way of a step is timed at every size', async () => {
  const heard: string[] = []
  const times = await measureSteps(
    tinyDev,
    {
      device: 'cpu',
      sizes: [
        { width: 64, height: 64 },
        { width: 96, height: 64 },
      ],
      precisions: ['bf16', 'fp8'],
      runs: 3,
    },
    (each) => heard.push(describeTimes(each)),
  )
  const names = times.map(({ precision, inputs, size }) => `${precision} ${inputs} ${size.width}`)
  expect(new Set(names).size).toBe(2 * 3 * 2)
  for (const { milliseconds } of times) expect(milliseconds.median).toBeGreaterThan(0)
  expect(heard).toHaveLength(times.length)
  expect(heard[0]).toMatch(/^bf16 64x64 sent: [\d.]+ ms \([\d.]+ to [\d.]+\)$/)
})
