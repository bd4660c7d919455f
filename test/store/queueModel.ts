/**
 * The queue as plain lists in memory: what the stores' queries are compared with. It was the server's
 * own queue before the store had one.
 *
 * Highest priority first. Within a priority the owners take turns: a new prediction's turn is one more than
 * its owner's last waiting one, and at least that of the head. Within a turn, first come, first served.
 */
export type QueueItem = {
  readonly id: string
  readonly owner: string
  readonly priority: number
  readonly loraSet: string
}

type Entry = QueueItem & { turn: number; readonly sequence: number; overtakenAtMs?: number }

export type QueueModel = {
  readonly push: (item: QueueItem) => void
  /** The one that `claim` would take, taken out. */
  readonly claim: (
    resident: string | undefined,
    patienceMs: number,
    nowMs: number,
  ) => string | undefined
  /** Back to the head of its priority. */
  readonly release: (id: string) => void
  readonly remove: (id: string) => void
  /** Everything that waits, in order; what is claimed and does not run keeps its place. */
  readonly order: () => readonly string[]
}

const affinityWindow = 32

export function createQueueModel(): QueueModel {
  const waiting: Entry[] = []
  const claimed = new Map<string, Entry>()
  let sequence = 0

  const inQueue = () => [...waiting, ...claimed.values()].sort(compare)
  const headTurn = (priority: number) =>
    inQueue().find((entry) => entry.priority === priority)?.turn ?? 0

  function push(item: QueueItem): void {
    const own = inQueue().filter(
      ({ owner, priority }) => owner === item.owner && priority === item.priority,
    )
    const next = Math.max(-1, ...own.map(({ turn }) => turn)) + 1
    waiting.push({ ...item, turn: Math.max(next, headTurn(item.priority)), sequence: sequence++ })
  }

  function claim(resident: string | undefined, patienceMs: number, nowMs: number) {
    waiting.sort(compare)
    const [head] = waiting
    if (!head) return undefined
    const isPatient = patienceMs > 0 && nowMs - (head.overtakenAtMs ?? nowMs) < patienceMs
    const preferred = waiting
      .slice(0, affinityWindow)
      .find(({ loraSet, priority }) => loraSet === resident && priority === head.priority)
    const chosen = (isPatient && preferred) || head
    if (chosen !== head) head.overtakenAtMs ??= nowMs
    waiting.splice(waiting.indexOf(chosen), 1)
    claimed.set(chosen.id, chosen)
    return chosen.id
  }

  return {
    push,
    claim,
    release(id) {
      const entry = claimed.get(id)
      if (!entry) return
      entry.turn = headTurn(entry.priority)
      claimed.delete(id)
      waiting.push(entry)
    },
    remove(id) {
      claimed.delete(id)
      const at = waiting.findIndex((entry) => entry.id === id)
      if (at >= 0) waiting.splice(at, 1)
    },
    order: () => inQueue().map(({ id }) => id),
  }
}

const compare = (a: Entry, b: Entry) =>
  b.priority - a.priority || a.turn - b.turn || a.sequence - b.sequence
