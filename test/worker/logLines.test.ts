import { describe, expect, test } from 'vitest'
import { requestOf } from '../../src/bench/cases.js'
import { createLogLines, progressLine } from '../../src/worker/logLines.js'
import { foxPlan } from './engine/foxPlan.js'

const { draft } = requestOf(foxPlan)

test('what of a LoRA is not merged is in the log, before the seed', () => {
  const lines = createLogLines(draft, 1)
  const notes = ['fofr/fox: 3 of its tensors are not merged, the first is lora_te2_x']
  expect(lines({ kind: 'lorasReady', id: '1', seconds: 0.25, notes }).slice(0, 3)).toEqual([
    'Loaded LoRAs in 0.25s',
    ...notes,
    'Using seed: 7',
  ])
})

test('an image’s own size and the size it is scaled to are in the log', () => {
  const lines = createLogLines({ ...draft, start: 'inpaint' }, 0)
  const planned = { size: { width: 304, height: 208 }, imageSize: { width: 300, height: 200 } }
  expect(lines({ kind: 'planned', id: '1', ...planned })).toEqual([])
  expect(lines({ kind: 'lorasReady', id: '1', seconds: 0, notes: [] }).slice(2, 5)).toEqual([
    'Input image size: 300x200',
    '[!] Resizing input image from 300x200 to 304x208',
    '[!] inpaint mode',
  ])
})

describe('a progress line', () => {
  /** As the JavaScript client reads it: replicate lib/util.js, parseProgressFromLogs. */
  const clientPattern = /^\s*(\d+)%\s*\|.+?\|\s*(\d+)\/(\d+)/

  test.each([
    [0, 28, 0, '  0%|          | 0/28 [00:00<?, ?it/s]'],
    [6, 28, 0.656, ' 21%|██▏       | 6/28 [00:00<00:02,  9.15it/s]'],
    [5, 28, 0.5, ' 18%|█▊        | 5/28 [00:00<00:02, 10.00it/s]'],
    [14, 28, 28, ' 50%|█████     | 14/28 [00:28<00:28,  2.00s/it]'],
    [1, 4, 3700, ' 25%|██▌       | 1/4 [1:01:40<3:05:00, 3700.00s/it]'],
    [28, 28, 28, '100%|██████████| 28/28 [00:28<00:00,  1.00it/s]'],
  ])('of %i of %i steps after %s s reads %j', (done, total, seconds, line) => {
    expect(progressLine(done, total, seconds)).toBe(line)
  })

  test.each([0, 1, 5, 28])('tells a client that %i of 28 are done', (done) => {
    const match = clientPattern.exec(progressLine(done, 28, 1))
    expect(match?.slice(2)).toEqual([String(done), '28'])
  })
})
