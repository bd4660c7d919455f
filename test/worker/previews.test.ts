import { expect, test, vi } from 'vitest'
import { createPreviews } from '../../src/worker/previews.js'

const preview = { image: 0, step: 1, steps: 2, bytes: new Uint8Array(), mimeType: 'image/webp' }

test('previews are wanted from the first watcher to the last', () => {
  const previews = createPreviews()
  const wish = previews.wish('a')
  const changes: boolean[] = []
  const stopTelling = wish.onChange(() => changes.push(wish.isWanted()))
  const stops = [previews.watch('a', () => {}), previews.watch('a', () => {})]
  expect(wish.isWanted()).toBe(true)
  for (const stop of stops) stop()
  stops[0]!()
  expect(changes).toEqual([true, false])
  stopTelling()
  previews.watch('a', () => {})
  expect(changes).toEqual([true, false])
})

test('they are shown to those who watch this prediction', () => {
  const previews = createPreviews()
  const [watching, stopped, elsewhere] = [vi.fn(), vi.fn(), vi.fn()]
  previews.watch('a', watching)
  previews.watch('a', stopped)()
  previews.watch('b', elsewhere)
  previews.show('a', preview)
  expect(watching.mock.calls).toEqual([[preview]])
  expect(stopped).not.toHaveBeenCalled()
  expect(elsewhere).not.toHaveBeenCalled()
})
