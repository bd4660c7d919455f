/**
 * Runs tasks one after the other in the order of the calls; a failed one does not stop the next.
 */
export type Mutex = <T>(work: () => Promise<T>) => Promise<T>

/** A mutex: its tasks never overlap. */
export function createMutex(): Mutex {
  // Each caller gets the failure of its own task; for the next task it is only the end of this one.
  let tail: Promise<unknown> = Promise.resolve()
  return (work) => {
    const turn = tail.then(work)
    tail = turn.catch(() => {})
    return turn
  }
}
