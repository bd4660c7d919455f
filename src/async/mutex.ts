/** One after the other, in the order of the calls, whether those before succeed or fail. */
export type Mutex = <T>(work: () => Promise<T>) => Promise<T>

/** Makes what it is given wait for each other. */
export function createMutex(): Mutex {
  let tail: Promise<unknown> = Promise.resolve()
  return (work) => {
    const turn = tail.then(work)
    tail = turn.catch(() => {})
    return turn
  }
}
