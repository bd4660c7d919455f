/** Previews of what runs: made while somebody watches, shown as they come, and kept by nobody. */
import type { PreviewWish } from './engine/client.js'

/** What picture `image` will be like, as a small file, after `step` of `steps`. */
export type Preview = {
  readonly image: number
  readonly step: number
  readonly steps: number
  readonly bytes: Uint8Array
  readonly mimeType: string
}

export type PreviewListener = (preview: Preview) => void

export type Previews = {
  /** Tells of those that are still to come; returns how to stop. */
  readonly watch: (id: string, listener: PreviewListener) => () => void
  readonly show: (id: string, preview: Preview) => void
  /** What the engine is told about the prediction `id`. */
  readonly wish: (id: string) => PreviewWish
}

export function createPreviews(): Previews {
  const watchers = new Map<string, Set<PreviewListener>>()
  const changes = new Map<string, () => void>()

  function watch(id: string, listener: PreviewListener): () => void {
    const listeners = watchers.get(id) ?? new Set()
    watchers.set(id, listeners.add(listener))
    if (listeners.size === 1) changes.get(id)?.()
    return () => {
      if (!listeners.delete(listener) || listeners.size > 0) return
      watchers.delete(id)
      changes.get(id)?.()
    }
  }

  return {
    watch,
    show(id, preview) {
      for (const listener of watchers.get(id) ?? []) listener(preview)
    },
    wish: (id) => ({
      isWanted: () => watchers.has(id),
      onChange(listener) {
        changes.set(id, listener)
        return () => void changes.delete(id)
      },
    }),
  }
}
