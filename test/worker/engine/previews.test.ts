/** Previews from a real engine process: only for those who want them, and from when they do. */

import { pino } from 'pino'
import { afterAll, expect, test } from 'vitest'
import { requestOf } from '../../../src/bench/cases.js'
import type { GenerationEvent } from '../../../src/engine/protocol.js'
import type { PreviewSubscription } from '../../../src/predictions/feed.js'
import { startEngine } from '../../../src/worker/engine/client.js'
import { fixturePath } from '../../goldens.js'
import { foxPlan } from './foxPlan.js'

const engine = startEngine(
  {
    checkpoints: { dev: fixturePath('tiny-dev'), schnell: fixturePath('tiny-schnell') },
    threads: 1,
  },
  pino({ level: 'silent' }),
)
afterAll(() => engine.stop())

/** The steps that are shown, of 40; `watch` is called after the tenth. */
async function listShownSteps(previews: PreviewSubscription, watch = () => {}) {
  const events: GenerationEvent[] = []
  const onEvent = (event: GenerationEvent) => {
    events.push(event)
    if (event.kind === 'progress' && event.step === 10) watch()
  }
  await engine.generate(requestOf({ ...foxPlan, steps: 40 }), { onEvent, previews })
  return events.filter((event) => event.kind === 'preview').map(({ step }) => step)
}

const always: PreviewSubscription = { isWanted: () => true, onChange: () => () => {} }

test('a subscription that wants none gets none', async () => {
  expect(await listShownSteps({ ...always, isWanted: () => false })).toEqual([])
})

test('one that wants them from the start gets the first after the first step', async () => {
  expect((await listShownSteps(always))[0]).toBe(1)
})

test('one that comes later gets them from then on', async () => {
  let isWanted = false
  let tell = () => {}
  const onChange = (listener: () => void) => {
    tell = listener
    return () => {}
  }
  const [first] = await listShownSteps({ isWanted: () => isWanted, onChange }, () => {
    isWanted = true
    tell()
  })
  expect(first).toBeGreaterThan(10)
})
