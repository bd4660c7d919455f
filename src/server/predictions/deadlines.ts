/** Cancels what is not done in time: a deadline holds for waiting and running alike. */
export type Deadlines = {
  readonly set: (id: string, deadline: Date | undefined) => void
  readonly clear: (id: string) => void
  readonly stop: () => void
}

// Longer delays make setTimeout fire at once.
const longestDelayMs = 2 ** 31 - 1

export function createDeadlines(onPassed: (id: string) => void): Deadlines {
  const timers = new Map<string, NodeJS.Timeout>()

  function set(id: string, deadline: Date | undefined): void {
    if (!deadline) return
    const delayMs = deadline.getTime() - Date.now()
    const isFar = delayMs > longestDelayMs
    const onTime = () => (isFar ? set(id, deadline) : onPassed(id))
    timers.set(id, setTimeout(onTime, Math.min(Math.max(0, delayMs), longestDelayMs)))
  }

  function clear(id: string): void {
    clearTimeout(timers.get(id))
    timers.delete(id)
  }

  return {
    set,
    clear,
    stop() {
      for (const id of timers.keys()) clear(id)
    },
  }
}
