import { expect, test } from 'vitest'
import { createQueue } from '../../src/predictions/queue.js'

const never = new AbortController().signal

test('tasks run one after the other in order of arrival, past one that fails', async () => {
  const queue = createQueue()
  const story: string[] = []
  const task = (name: string) => async () => {
    story.push(`${name} starts`)
    await new Promise((resolve) => setTimeout(resolve, 2))
    story.push(`${name} ends`)
    if (name === 'a') throw new Error('a is broken')
    return name
  }
  const results = await Promise.allSettled([
    queue.enqueue(task('a'), never),
    queue.enqueue(task('b'), never),
  ])
  expect(story).toEqual(['a starts', 'a ends', 'b starts', 'b ends'])
  expect(results.map(({ status }) => status)).toEqual(['rejected', 'fulfilled'])
})

test('cancelling a waiting task never starts it', async () => {
  const queue = createQueue()
  const canceling = new AbortController()
  const started: string[] = []
  const first = queue.enqueue(() => new Promise((resolve) => setTimeout(resolve, 5)), never)
  const second = queue.enqueue(async () => started.push('second'), canceling.signal)
  canceling.abort()
  await expect(second).rejects.toMatchObject({ code: 'canceled' })
  await first
  expect(started).toEqual([])
})
