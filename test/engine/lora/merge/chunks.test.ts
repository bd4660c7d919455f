import { expect, test } from 'vitest'
import { groupBySize } from '../../../../src/engine/lora/merge/chunks.js'

test.each([
  [[], []],
  [[3], [[3]]],
  [[3, 4, 3], [[3, 4, 3]]],
  [
    [3, 4, 4],
    [[3, 4], [4]],
  ],
  [
    [11, 1, 12, 12, 5, 5],
    [[11], [1], [12], [12], [5, 5]],
  ],
])('%j in groups of at most 10', (sizes, groups) => {
  expect(groupBySize(sizes, (size) => size, 10)).toEqual(groups)
})
