/**
 * Those who run next. What they need is fetched while another prediction runs; whoever is first in the
 * queue and has it runs next, so that a slow download holds up nobody but its own prediction.
 */

import type { FairQueue } from '../predictions/fairQueue.js'
import type { PredictionStore } from '../store/sqlite/predictions.js'
import type { Live, LivePredictions } from './activePredictions.js'
import { type LoraLibrary, type Preparation, prepare } from './assets.js'

export type UpcomingOptions = {
  readonly queue: Pick<FairQueue, 'order' | 'remove'>
  readonly live: Pick<LivePredictions, 'find' | 'writeLine'>
  readonly store: Pick<PredictionStore, 'readWish'>
  readonly library: LoraLibrary
  readonly media: Parameters<typeof prepare>[1]['media']
  /** Something has changed about who is next. */
  readonly onChange: () => void
  /** What `id` needs cannot be had; it waits no longer. */
  readonly onFailure: (id: string, prediction: Live, error: unknown) => Promise<void>
}

export type Upcoming = {
  /** Begins to fetch what those at the head of the queue need. */
  readonly prepare: () => void
  /** Who is first in the queue among those who have what they need. */
  readonly first: () => readonly [id: string, preparation: Preparation] | undefined
  /** It runs: whoever takes it releases its preparation. */
  readonly take: (id: string) => void
}

// One ahead is what pays; a second one keeps the engine busy when the first one's download is slow.
const ahead = 2
// Who was overtaken after it had been prepared keeps what it has: a picture of up to 100 MiB each.
const maxPrepared = 3

export function createUpcoming(options: UpcomingOptions): Upcoming {
  const { queue, live, onChange } = options
  /** What each has got so far. */
  const preparing = new Map<string, { ready?: Preparation }>()

  async function begin(id: string): Promise<void> {
    const prediction = live.find(id)
    if (!prediction) return
    const readiness: { ready?: Preparation } = {}
    preparing.set(id, readiness)
    try {
      readiness.ready = await prepare(options.store.readWish(id), {
        library: options.library,
        media: options.media,
        signal: prediction.signal,
        writeLine: (line) => live.writeLine(id, line),
      })
      // Whoever was canceled meanwhile will not come to take it.
      if (prediction.signal.aborted) giveBack(id)
      else prediction.signal.addEventListener('abort', () => giveBack(id), { once: true })
    } catch (error) {
      preparing.delete(id)
      queue.remove(id)
      await options.onFailure(id, prediction, error)
    }
    onChange()
  }

  /** Does nothing for one that was taken: the engine may still be reading its files. */
  function giveBack(id: string): void {
    preparing.get(id)?.ready?.release()
    if (preparing.delete(id)) onChange()
  }

  return {
    prepare() {
      for (const id of head(ahead, queue.order()))
        if (!preparing.has(id) && preparing.size < maxPrepared) void begin(id)
    },
    first() {
      if (![...preparing.values()].some(({ ready }) => ready)) return undefined
      for (const id of queue.order()) {
        const ready = preparing.get(id)?.ready
        if (ready) return [id, ready]
      }
      return undefined
    },
    take: (id) => void preparing.delete(id),
  }
}

function head<T>(count: number, items: Iterable<T>): T[] {
  const found: T[] = []
  for (const item of items) {
    found.push(item)
    if (found.length === count) break
  }
  return found
}
