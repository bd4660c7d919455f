import { expect, test } from 'vitest'
import { progressLine } from '../../src/worker/progressBar.js'

/** As the JavaScript client reads it: replicate lib/util.js, parseProgressFromLogs. */
const clientPattern = /^\s*(\d+)%\s*\|.+?\|\s*(\d+)\/(\d+)/

test.each([
  [0, 28, 0, '  0%|          | 0/28 [00:00<?, ?it/s]'],
  [6, 28, 0.656, ' 21%|██▏       | 6/28 [00:00<00:02,  9.15it/s]'],
  [5, 28, 0.5, ' 18%|█▊        | 5/28 [00:00<00:02, 10.00it/s]'],
  [14, 28, 28, ' 50%|█████     | 14/28 [00:28<00:28,  2.00s/it]'],
  [1, 4, 3700, ' 25%|██▌       | 1/4 [1:01:40<3:05:00, 3700.00s/it]'],
  [28, 28, 28, '100%|██████████| 28/28 [00:28<00:00,  1.00it/s]'],
])('%i of %i steps after %s s reads %j', (done, total, seconds, line) => {
  expect(progressLine(done, total, seconds)).toBe(line)
})

test.each([0, 1, 5, 28])('a client finds %i of 28 in the line', (done) => {
  const match = clientPattern.exec(progressLine(done, 28, 1))
  expect(match?.slice(2)).toEqual([String(done), '28'])
})
