/**
 * The queue as an index of the rows that are neither over nor running. An owner's turn is one more than
 * its last waiting one, and at least that of the head of the queue: owners alternate, and one with a
 * thousand predictions delays another owner's by one turn (start-time fair queueing).
 */
import type { Cost, CostKind, CostTotals } from '../../predictions/cost.js'
import type { ClaimOptions, QueuePosition, RunningPrediction } from '../predictionStore.js'
import type { Database } from './database.js'

/** What waits or is claimed ahead. As in the indexes, so that SQLite uses them. */
const inQueue = 'completed_at IS NULL AND is_running = 0'

// An executor looks so far for a prediction whose LoRAs are in place.
const affinityWindow = 32

export type QueueIndex = {
  /** The turn of a new prediction. */
  readonly nextTurn: (owner: string, priority: number) => number
  /** The turn that stands before all others of a priority. */
  readonly headTurn: (priority: number) => number
  /** Who is next for an executor; the head that is overtaken for it is marked. */
  readonly choose: (options: ClaimOptions, nowMs: number) => number | undefined
  readonly position: (id: string) => QueuePosition | undefined
  readonly counts: () => { readonly waiting: number; readonly running: number }
}

type Candidate = {
  readonly sequence: number
  readonly priority: number
  readonly lora_set: string
  readonly overtaken_at: number | null
}

type Place = {
  readonly sequence: number
  readonly priority: number
  readonly turn: number
  readonly is_running: number
}

type CostRow = {
  readonly cost_kind: CostKind
  readonly cost_tokens: number
  readonly cost_step_tokens: number
}

type TotalRow = CostRow & { readonly number: number }

export function createQueueIndex({ sqlite }: Database): QueueIndex {
  const lastOfOwner = sqlite
    .prepare<[string, number], number | null>(
      `SELECT MAX(turn) FROM predictions WHERE ${inQueue} AND owner = ? AND priority = ?`,
    )
    .pluck()
  const head = sqlite
    .prepare<[number], number>(
      `SELECT turn FROM predictions WHERE ${inQueue} AND priority = ?
       ORDER BY turn, sequence LIMIT 1`,
    )
    .pluck()
  const candidates = sqlite.prepare<[number], Candidate>(
    `SELECT sequence, priority, lora_set, overtaken_at FROM predictions
     WHERE ${inQueue} AND executor IS NULL AND priority > ?
     ORDER BY priority DESC, turn, sequence LIMIT ${affinityWindow}`,
  )
  const markOvertaken = sqlite.prepare<[number, number]>(
    'UPDATE predictions SET overtaken_at = ? WHERE sequence = ?',
  )
  const placeOf = sqlite.prepare<[string], Place>(
    `SELECT sequence, priority, turn, is_running FROM predictions
     WHERE id = ? AND completed_at IS NULL`,
  )
  // Three ranges of the index: a comparison of rows would read all of it.
  const before = sqlite.prepare<Place, TotalRow>(`
    SELECT cost_kind, SUM(number) AS number, SUM(cost_tokens) AS cost_tokens,
      SUM(cost_step_tokens) AS cost_step_tokens
    FROM (
      SELECT 1 AS number, cost_kind, cost_tokens, cost_step_tokens FROM predictions
      WHERE ${inQueue} AND priority > @priority
      UNION ALL
      SELECT 1, cost_kind, cost_tokens, cost_step_tokens FROM predictions
      WHERE ${inQueue} AND priority = @priority AND turn < @turn
      UNION ALL
      SELECT 1, cost_kind, cost_tokens, cost_step_tokens FROM predictions
      WHERE ${inQueue} AND priority = @priority AND turn = @turn AND sequence <= @sequence
    ) GROUP BY cost_kind`)
  const running = sqlite.prepare<
    [],
    CostRow & { readonly id: string; readonly started_at: number }
  >(
    `SELECT id, started_at, cost_kind, cost_tokens, cost_step_tokens FROM predictions
     WHERE executor IS NOT NULL AND is_running = 1 ORDER BY started_at`,
  )
  const countWaiting = sqlite
    .prepare<[], number>(`SELECT COUNT(*) FROM predictions WHERE ${inQueue}`)
    .pluck()

  const headTurn = (priority: number) => head.get(priority) ?? 0

  function choose({ resident, patienceMs, above }: ClaimOptions, nowMs: number) {
    const found = candidates.all(above ?? Number.MIN_SAFE_INTEGER)
    const first = found[0]
    if (!first) return undefined
    const overtakenAt = first.overtaken_at ?? nowMs
    const isPatient = patienceMs > 0 && nowMs - overtakenAt < patienceMs
    const chosen = isPatient ? (found.find((row) => isResident(row, first)) ?? first) : first
    if (chosen !== first && first.overtaken_at === null) markOvertaken.run(nowMs, first.sequence)
    return chosen.sequence

    function isResident(row: Candidate, { priority }: Candidate): boolean {
      return row.lora_set === resident && row.priority === priority
    }
  }

  const listRunning = (): RunningPrediction[] =>
    running.all().map((row) => ({
      id: row.id,
      cost: toCost(row),
      startedAt: new Date(row.started_at),
    }))

  return {
    nextTurn: (owner, priority) =>
      Math.max((lastOfOwner.get(owner, priority) ?? -1) + 1, headTurn(priority)),
    headTurn,
    choose,
    position(id) {
      const place = placeOf.get(id)
      if (!place) return undefined
      if (place.is_running === 1) return { cost: {}, running: listRunning() }
      const rows = before.all(place)
      const number = rows.reduce((sum, row) => sum + row.number, 0)
      // Its own row is counted among those before it.
      return { before: number - 1, cost: toTotals(rows), running: listRunning() }
    },
    counts: () => ({ waiting: countWaiting.get() ?? 0, running: running.all().length }),
  }
}

export const toCost = (row: CostRow): Cost => ({
  kind: row.cost_kind,
  tokens: row.cost_tokens,
  stepTokens: row.cost_step_tokens,
})

const toTotals = (rows: readonly CostRow[]): CostTotals =>
  Object.fromEntries(
    rows.map((row) => [
      row.cost_kind,
      { tokens: row.cost_tokens, stepTokens: row.cost_step_tokens },
    ]),
  )
