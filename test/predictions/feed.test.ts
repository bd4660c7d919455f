import { describe, expect, test, vi } from 'vitest'
import type { PredictionEvent } from '../../src/predictions/eventLog.js'
import { createLocalFeed } from '../../src/predictions/feed.js'
import { cancel, start, succeed } from '../../src/predictions/prediction.js'
import { describePrediction } from '../store/admissions.js'

const preview = { image: 0, step: 1, steps: 2, bytes: new Uint8Array(), mimeType: 'image/webp' }
const file = { index: 0, name: 'out-0.webp', mimeType: 'image/webp', size: 1, fileId: 'f' }
const kindOf = (event: PredictionEvent) =>
  event.kind === 'status' ? event.prediction.status : event.kind

describe('previews', () => {
  test('are wanted from the first watcher to the last', () => {
    const feed = createLocalFeed()
    const { previews } = feed.open(describePrediction('a'))
    const changes: boolean[] = []
    const stopListening = previews.onChange(() => changes.push(previews.isWanted()))
    const stops = [feed.watchPreviews('a', () => {}), feed.watchPreviews('a', () => {})]
    expect(previews.isWanted()).toBe(true)
    for (const stop of stops) stop()
    stops[0]!()
    expect(changes).toEqual([true, false])
    stopListening()
    feed.watchPreviews('a', () => {})
    expect(changes).toEqual([true, false])
  })

  test('are sent to the watchers of their prediction, also of those who came before it was held', () => {
    const feed = createLocalFeed()
    const [watching, stopped, elsewhere] = [vi.fn(), vi.fn(), vi.fn()]
    feed.watchPreviews('a', watching)
    feed.watchPreviews('a', stopped)()
    feed.watchPreviews('b', elsewhere)
    feed.open(describePrediction('a')).showPreview(preview)
    expect(watching.mock.calls).toEqual([[preview]])
    expect(stopped).not.toHaveBeenCalled()
    expect(elsewhere).not.toHaveBeenCalled()
  })
})

describe('events', () => {
  test('reach a watcher that came before the prediction was held, and one that comes later', () => {
    const feed = createLocalFeed()
    const [early, late]: PredictionEvent[][] = [[], []]
    feed.watch('a', (event) => early!.push(event))
    const writer = feed.open(describePrediction('a'))
    writer.writeLine('line')
    writer.begin(start(writer.prediction(), writer.prediction().logs))
    writer.addOutput(file)
    writer.settle(succeed(writer.prediction()))
    feed.watch('a', (event) => late!.push(event))
    expect(early!.map(kindOf)).toEqual(['log', 'processing', 'output', 'succeeded'])
    expect(late).toEqual(early)
    const seen = early![1]!.id
    const rest: string[] = []
    feed.watch('a', (event) => rest.push(kindOf(event)), seen)
    expect(rest).toEqual(['output', 'succeeded'])
  })

  test('end with the end that the server decided, and the writer says nothing more', () => {
    const feed = createLocalFeed()
    const kinds: string[] = []
    feed.watch('a', (event) => kinds.push(kindOf(event)))
    const writer = feed.open(describePrediction('a'))
    feed.end(cancel(writer.prediction()))
    writer.writeLine('too late')
    feed.end(cancel(writer.prediction()))
    expect(kinds).toEqual(['canceled'])
    expect(feed.snapshot('a')).toBeUndefined()
    expect(feed.has('a')).toBe(true)
  })

  test('are reported once each, and a start only the first time', () => {
    const feed = createLocalFeed()
    const reported: string[] = []
    feed.observe((_, kind) => reported.push(kind))
    const writer = feed.open(describePrediction('a'))
    writer.begin(start(writer.prediction(), ''))
    writer.begin(start(writer.prediction(), 'again\n'))
    writer.addOutput(file)
    writer.settle(succeed(writer.prediction()))
    expect(reported).toEqual(['start', 'output', 'completed'])
  })

  test('of the last hundred ends are remembered, and of those that are watched', () => {
    const feed = createLocalFeed()
    for (let n = 0; n <= 100; n++) {
      const writer = feed.open(describePrediction(`p${n}`))
      writer.settle(succeed(writer.prediction()))
    }
    expect([feed.has('p0'), feed.has('p1')]).toEqual([false, true])
  })
})

test('the snapshot is the state of the moment, while a worker holds the prediction', () => {
  const feed = createLocalFeed()
  expect(feed.snapshot('a')).toBeUndefined()
  const writer = feed.open(describePrediction('a'))
  writer.writeLine('line')
  expect(feed.snapshot('a')?.logs).toBe('line\n')
  writer.close()
  expect(feed.snapshot('a')).toBeUndefined()
})
