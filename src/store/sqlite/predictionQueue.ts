/**
 * The queue as an index of the rows that are neither over nor running. An owner's turn is one more
 * than its last waiting one, and at least that of the head of the queue: owners alternate, and one
 * with a thousand predictions delays another owner's by one turn (start-time fair queueing).
 */
import type { Cost, CostKind, CostTotals } from '../../predictions/cost.js'
import type { ClaimOptions, QueuePosition, RunningPrediction } from '../predictionStore.js'
import type { Database } from './database.js'

/** What waits or is claimed ahead. As in the indexes, so that SQLite uses them. */
const inQueue = 'completed_at IS NULL AND is_running = 0'

const isIn = (row: 'OLD' | 'NEW') => `${row}.completed_at IS NULL AND ${row}.is_running = 0`

const addTo = (row: 'OLD' | 'NEW', sign: '+' | '-') => `
    INSERT INTO queue_totals VALUES (${row}.priority, ${row}.cost_kind, ${sign}1,
      ${sign}${row}.cost_tokens, ${sign}${row}.cost_step_tokens)
    ON CONFLICT (priority, cost_kind) DO UPDATE SET number = number + excluded.number,
      tokens = tokens + excluded.tokens, step_tokens = step_tokens + excluded.step_tokens`

/**
 * What waits, added up: every reply about a prediction asks for it, and queues have thousands. A
 * cost is a whole number, so that the sums stay exact.
 */
export const queueTotals = `
  CREATE TABLE queue_totals (
    priority INTEGER NOT NULL,
    cost_kind TEXT NOT NULL,
    number INTEGER NOT NULL,
    tokens REAL NOT NULL,
    step_tokens REAL NOT NULL,
    PRIMARY KEY (priority, cost_kind)
  ) STRICT, WITHOUT ROWID;
  INSERT INTO queue_totals SELECT priority, cost_kind, COUNT(*), SUM(cost_tokens),
    SUM(cost_step_tokens) FROM predictions WHERE ${inQueue} GROUP BY priority, cost_kind;
  CREATE TRIGGER queue_entered AFTER INSERT ON predictions WHEN ${isIn('NEW')} BEGIN
    ${addTo('NEW', '+')};
  END;
  CREATE TRIGGER queue_left AFTER UPDATE OF completed_at, is_running ON predictions
    WHEN (${isIn('OLD')}) AND NOT (${isIn('NEW')}) BEGIN
    ${addTo('OLD', '-')};
  END;
  CREATE TRIGGER queue_returned AFTER UPDATE OF completed_at, is_running ON predictions
    WHEN NOT (${isIn('OLD')}) AND (${isIn('NEW')}) BEGIN
    ${addTo('NEW', '+')};
  END`

// An executor looks so far for a prediction whose LoRAs are in place.
const affinityWindow = 32
// So many turns behind a place are read sooner than all that comes before it.
const nearEnd = 200

export type QueueIndex = {
  /** The turn of a new prediction. */
  readonly nextTurn: (owner: string, priority: number) => number
  /** The turn that stands before all others of a priority. */
  readonly headTurn: (priority: number) => number
  /** The next prediction for an executor; a head that is overtaken for it is marked. */
  readonly choose: (options: ClaimOptions, nowMs: number) => number | undefined
  readonly position: (id: string) => QueuePosition | undefined
  readonly waiting: () => number
  readonly running: () => readonly RunningPrediction[]
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
  // Ranges of the index: a comparison of rows would read all of it.
  const upTo = sqlite.prepare<Place, TotalRow>(sumOf('<', '<='))
  const behind = sqlite.prepare<Place, TotalRow>(sumOf('>', '>'))
  const isNearEnd = sqlite
    .prepare<Place, number>(
      `SELECT COUNT(*) FROM (SELECT 1 FROM predictions WHERE ${inQueue} AND priority = @priority
         AND turn > @turn LIMIT ${nearEnd})`,
    )
    .pluck()
  const totals = sqlite.prepare<[number, number], TotalRow>(
    `SELECT cost_kind, SUM(number) AS number, SUM(tokens) AS cost_tokens,
       SUM(step_tokens) AS cost_step_tokens FROM queue_totals
     WHERE priority >= ? AND priority <= ? GROUP BY cost_kind`,
  )
  const running = sqlite.prepare<
    [],
    CostRow & { readonly id: string; readonly started_at: number }
  >(
    `SELECT id, started_at, cost_kind, cost_tokens, cost_step_tokens FROM predictions
     WHERE executor IS NOT NULL AND is_running = 1 ORDER BY started_at`,
  )
  const countWaiting = sqlite
    .prepare<[], number>('SELECT COALESCE(SUM(number), 0) FROM queue_totals')
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

  /** What comes before a place, and its own; near the end it is all but what comes behind. */
  function sumUpTo(place: Place): TotalRow[] {
    const { priority } = place
    const higher = totals.all(priority + 1, Number.MAX_SAFE_INTEGER)
    if ((isNearEnd.get(place) ?? 0) >= nearEnd) return addRows([...higher, ...upTo.all(place)])
    const all = totals.all(priority, priority)
    return addRows([...higher, ...all, ...behind.all(place).map(negate)])
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
      const rows = sumUpTo(place)
      const number = rows.reduce((sum, row) => sum + row.number, 0)
      // Its own row is counted among those before it.
      return { before: number - 1, cost: toTotals(rows), running: listRunning() }
    },
    waiting: () => countWaiting.get() ?? 0,
    running: listRunning,
  }
}

export const toCost = (row: CostRow): Cost => ({
  kind: row.cost_kind,
  tokens: row.cost_tokens,
  stepTokens: row.cost_step_tokens,
})

/** The sums of a priority's places on one side of a place, by kind. */
const sumOf = (turns: '<' | '>', sequences: '<=' | '>') => `
  SELECT cost_kind, COUNT(*) AS number, SUM(cost_tokens) AS cost_tokens,
    SUM(cost_step_tokens) AS cost_step_tokens
  FROM (
    SELECT cost_kind, cost_tokens, cost_step_tokens FROM predictions
    WHERE ${inQueue} AND priority = @priority AND turn ${turns} @turn
    UNION ALL
    SELECT cost_kind, cost_tokens, cost_step_tokens FROM predictions
    WHERE ${inQueue} AND priority = @priority AND turn = @turn AND sequence ${sequences} @sequence
  ) GROUP BY cost_kind`

const negate = (row: TotalRow): TotalRow => ({
  cost_kind: row.cost_kind,
  number: -row.number,
  cost_tokens: -row.cost_tokens,
  cost_step_tokens: -row.cost_step_tokens,
})

function addRows(rows: readonly TotalRow[]): TotalRow[] {
  const sums = new Map<CostKind, TotalRow>()
  for (const row of rows) {
    const sum = sums.get(row.cost_kind)
    sums.set(row.cost_kind, {
      cost_kind: row.cost_kind,
      number: row.number + (sum?.number ?? 0),
      cost_tokens: row.cost_tokens + (sum?.cost_tokens ?? 0),
      cost_step_tokens: row.cost_step_tokens + (sum?.cost_step_tokens ?? 0),
    })
  }
  return [...sums.values()].filter(({ number }) => number > 0)
}

const toTotals = (rows: readonly CostRow[]): CostTotals =>
  Object.fromEntries(
    rows.map((row) => [
      row.cost_kind,
      { tokens: row.cost_tokens, stepTokens: row.cost_step_tokens },
    ]),
  )
