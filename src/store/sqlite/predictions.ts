/**
 * Predictions in SQLite. A row is small: values of an input that are long (data URIs) are whole in
 * a table of their own and cut short in the row.
 */
import type { Prediction } from '../../contract/prediction.js'
import { cancel, fail } from '../../predictions/prediction.js'
import type {
  Admission,
  AdmissionOutcome,
  CancelOutcome,
  Claim,
  ClaimedPrediction,
  ClaimOptions,
  ListedPrediction,
  PredictionStore,
  Progress,
} from '../predictionStore.js'
import type { Signals } from '../signals.js'
import { readRequest, writeRequest } from '../storedRequest.js'
import type { Database } from './database.js'
import { createIdempotencyTable } from './idempotency.js'
import { createPredictionLists } from './predictionLists.js'
import { createQueueIndex, toCost } from './predictionQueue.js'
import { type QueueColumns, shorten, toColumns, toWhole, type WholeRow } from './predictionRows.js'
import type { DeliveryTable } from './webhookDeliveries.js'

type ClaimedRow = WholeRow & QueueColumns & { readonly wish_json: string }

type ClaimColumns = { readonly claim: number; readonly executor: string }

/** The adapter of the port; `deliveries` writes a webhook's row in the transaction of its state. */
export function createPredictionStore(
  database: Database,
  deliveries: DeliveryTable,
  signals: Signals,
): PredictionStore {
  const { write, writeLater } = database
  const rows = prepareRows(database)
  const queue = createQueueIndex(database)
  const lists = createPredictionLists(database)
  const idempotency = createIdempotencyTable(database)

  async function admit(admission: Admission): Promise<AdmissionOutcome> {
    const outcome = await write(() => refuse(admission) ?? insert(admission))
    if (outcome.kind === 'admitted') signals.send({ kind: 'work' })
    return outcome
  }

  function refuse(admission: Admission): AdmissionOutcome | undefined {
    const { prediction, idempotency: sent, maxWaiting, unlessBusy } = admission
    const known = sent && idempotency.find(prediction.keyId ?? '', sent.key)
    if (known && known.bodyDigest === sent.bodyDigest)
      return { kind: 'repeated', id: known.predictionId }
    if (known) return { kind: 'conflict', field: 'idempotencyKey' }
    if (rows.isKnown.get(prediction.id)) return { kind: 'conflict', field: 'id' }
    const waiting = queue.waiting()
    if (unlessBusy && waiting + queue.running().length > 0) return { kind: 'busy' }
    if (waiting >= maxWaiting) return { kind: 'full' }
    return undefined
  }

  function insert(admission: Admission): AdmissionOutcome {
    const { prediction, work, priority, cost, loraSet, idempotency: sent } = admission
    const excerpt = shorten(prediction.input)
    const owner = prediction.keyId ?? ''
    const { lastInsertRowid } = rows.insert.run({
      ...toColumns(prediction),
      owner,
      priority,
      turn: queue.nextTurn(owner, priority),
      lora_set: loraSet,
      cost_kind: cost.kind,
      cost_tokens: cost.tokens,
      cost_step_tokens: cost.stepTokens,
      excerpt_json: JSON.stringify(excerpt),
    })
    rows.insertInput.run(
      Number(lastInsertRowid),
      excerpt === prediction.input ? null : JSON.stringify(prediction.input),
      prediction.inputFiles ? JSON.stringify(prediction.inputFiles) : null,
      writeRequest(work, prediction.input),
    )
    if (sent) idempotency.add({ owner, ...sent }, prediction.id, prediction.createdAt)
    return { kind: 'admitted' }
  }

  async function claim(options: ClaimOptions): Promise<ClaimedPrediction | undefined> {
    const claimed = await writeLater(() => {
      const sequence = queue.choose(options, Date.now())
      return sequence === undefined ? undefined : rows.claim.get(options.executor, sequence)
    })
    const row = claimed && rows.claimed.get(claimed.id)
    if (!row) return undefined
    const held = { id: row.id, executor: options.executor, number: claimed.claim }
    try {
      return toClaimed(row, held)
    } catch (error) {
      await setAside(held, toWhole(row)!, error)
      return claim(options)
    }
  }

  /** A row that cannot be read would stop every executor that claims it. */
  async function setAside(held: Claim, prediction: Prediction, error: unknown): Promise<void> {
    const reason = error instanceof Error ? error.message : String(error)
    await settle(held, fail(prediction, `The stored request cannot be read: ${reason}`))
  }

  const takeOver = ({ id, number, executor }: Claim, successor: string) =>
    writeLater((): Claim | undefined => {
      const taken = rows.takeOver.get({ id, claim: number, executor, successor })
      return taken && { id, executor: successor, number: taken.claim }
    })

  const save = (held: Claim, prediction: Prediction, isRunning: number) =>
    rows.update.run({ ...toColumns(prediction), ...toClaim(held), is_running: isRunning }).changes >
    0

  async function settle(held: Claim, prediction: Prediction): Promise<boolean> {
    const isSettled = await write(() => {
      const changes = rows.end.run({ ...toColumns(prediction), ...toClaim(held) }).changes
      if (changes > 0) deliveries.addCompleted(prediction)
      return changes > 0
    })
    if (isSettled) signals.send({ kind: 'ended', id: prediction.id })
    return isSettled
  }

  async function release(held: Claim): Promise<void> {
    await write(() => {
      const row = rows.byId.get(held.id)
      if (row)
        rows.release.run({ turn: queue.headTurn(row.priority), ...toClaim(held), id: held.id })
    })
    signals.send({ kind: 'work' })
  }

  async function cancelOne(id: string, progress?: Progress): Promise<CancelOutcome> {
    const outcome = await write(() => cancelRow(toWhole(rows.byId.get(id)), progress))
    if (outcome.isCanceled) signals.send({ kind: 'ended', id })
    return outcome
  }

  /** Without a claim: a cancel counts whichever executor holds the prediction. */
  function cancelRow(found: Prediction | undefined, progress?: Progress): CancelOutcome {
    if (!found) return { prediction: undefined, isCanceled: false }
    const prediction = cancel({ ...found, ...progress })
    const isCanceled = rows.cancel.run(toColumns(prediction)).changes > 0
    if (isCanceled) deliveries.addCompleted(prediction)
    return { prediction: isCanceled ? prediction : found, isCanceled }
  }

  async function expire(now: Date): Promise<readonly Prediction[]> {
    const due = rows.overdue.all(now.getTime())
    if (due.length === 0) return []
    const outcomes = await write(() => due.map((row) => cancelRow(toWhole(row))))
    const expired = outcomes.flatMap(({ isCanceled, prediction }) =>
      isCanceled && prediction ? [prediction] : [],
    )
    for (const { id } of expired) signals.send({ kind: 'ended', id })
    return expired
  }

  const recover = (maxStarts: number) =>
    write(() => {
      const failed = rows.interrupted.all().flatMap((row) => {
        const starts = rows.countStart.get(row.id)?.server_starts ?? 0
        if (starts <= maxStarts) return []
        const prediction = fail(toWhole(row)!, startedTooOften(maxStarts))
        rows.cancel.run(toColumns(prediction))
        deliveries.addCompleted(prediction)
        return [prediction]
      })
      rows.releaseAll.run()
      return failed
    })

  return {
    admit,
    find: async (id) => toWhole(rows.byId.get(id)),
    findByStreamToken: async (token) => toWhole(rows.byToken.get(token)),
    list: async (query): Promise<ListedPrediction[]> => lists.list(query),
    queuePosition: async (id) => queue.position(id),
    counts: async () => ({ waiting: queue.waiting(), running: queue.running().length }),
    claim,
    takeOver,
    begin: (held, prediction) => writeLater(() => save(held, prediction, 1)),
    checkpoint: (held, prediction) => writeLater(() => save(held, prediction, 1)),
    settle,
    release,
    cancel: cancelOne,
    expire,
    nextDeadline: async () => {
      const deadline = rows.firstDeadline.get()
      return deadline === undefined ? undefined : new Date(deadline)
    },
    recover,
    listToClear: async (time, limit) => lists.listToClear(time, limit),
    clear: (ids) => write(() => ids.forEach(lists.clear)),
    forgetIdempotencyKeys: (before) => write(() => idempotency.forget(before)),
  }

  function toClaimed(row: ClaimedRow, held: Claim): ClaimedPrediction {
    const prediction = toWhole(row)!
    return {
      claim: held,
      prediction,
      work: readRequest(row.wish_json, prediction.input),
      priority: row.priority,
      cost: toCost(row),
      loraSet: row.lora_set,
    }
  }
}

const startedTooOften = (maxStarts: number) =>
  `The server ended ${maxStarts} times while it worked on this, and does not try again`

const toClaim = ({ number, executor }: Claim): ClaimColumns => ({ claim: number, executor })

/** What holds a claim, and is not over. */
const isHeld = 'id = @id AND claim = @claim AND executor = @executor AND completed_at IS NULL'
const changes = `status = @status, started_at = @started_at, completed_at = @completed_at,
  logs = @logs, output_json = @output_json, error = @error, metrics_json = @metrics_json`

function prepareRows({ sqlite }: Database) {
  const whole = (where: string) => `
    SELECT predictions.*, sent_json, files_json FROM predictions
    LEFT JOIN inputs USING (sequence) WHERE ${where}`
  return {
    insert: sqlite.prepare(`
      INSERT INTO predictions (id, surface, model, version, deployment, key_id, owner, priority,
        turn, lora_set, cost_kind, cost_tokens, cost_step_tokens, traceparent, status, created_at,
        started_at, completed_at, deadline, sent_created_at, excerpt_json, metrics_json,
        webhook_json, stream_token)
      VALUES (@id, @surface, @model, @version, @deployment, @key_id, @owner, @priority, @turn,
        @lora_set, @cost_kind, @cost_tokens, @cost_step_tokens, @traceparent, @status, @created_at,
        @started_at, @completed_at, @deadline, @sent_created_at, @excerpt_json, @metrics_json,
        @webhook_json, @stream_token)`),
    insertInput: sqlite.prepare(
      'INSERT INTO inputs (sequence, sent_json, files_json, wish_json) VALUES (?, ?, ?, ?)',
    ),
    // One statement with the input, as each takes a lock.
    byId: sqlite.prepare<[string], WholeRow & QueueColumns>(whole('id = ?')),
    isKnown: sqlite.prepare<[string], unknown>('SELECT 1 FROM predictions WHERE id = ?'),
    byToken: sqlite.prepare<[string], WholeRow>(whole('stream_token = ?')),
    overdue: sqlite.prepare<[number], WholeRow>(
      whole('deadline IS NOT NULL AND completed_at IS NULL AND deadline <= ?'),
    ),
    claimed: sqlite.prepare<[string], ClaimedRow>(`
      SELECT predictions.*, sent_json, files_json, wish_json
      FROM predictions JOIN inputs USING (sequence) WHERE id = ?`),
    claim: sqlite.prepare<[string, number], { readonly id: string; readonly claim: number }>(`
      UPDATE predictions SET executor = ?, claim = claim + 1 WHERE sequence = ?
      RETURNING id, claim`),
    takeOver: sqlite.prepare<
      ClaimColumns & { readonly id: string; readonly successor: string },
      { readonly claim: number }
    >(`UPDATE predictions SET executor = @successor, claim = claim + 1
       WHERE ${isHeld} AND is_running = 0 RETURNING claim`),
    update: sqlite.prepare<Columns & ClaimColumns & { readonly is_running: number }>(
      `UPDATE predictions SET ${changes}, is_running = @is_running WHERE ${isHeld}`,
    ),
    end: sqlite.prepare<Columns & ClaimColumns>(
      `UPDATE predictions SET ${changes}, is_running = 0, executor = NULL WHERE ${isHeld}`,
    ),
    cancel: sqlite.prepare<Columns>(
      `UPDATE predictions SET ${changes}, is_running = 0, executor = NULL
       WHERE id = @id AND completed_at IS NULL`,
    ),
    release: sqlite.prepare<ClaimColumns & { readonly id: string; readonly turn: number }>(
      `UPDATE predictions SET executor = NULL, is_running = 0, turn = @turn WHERE ${isHeld}`,
    ),
    interrupted: sqlite.prepare<[], WholeRow>(
      `${whole("completed_at IS NULL AND status = 'processing'")} ORDER BY sequence`,
    ),
    countStart: sqlite.prepare<[string], { readonly server_starts: number }>(`
      UPDATE predictions SET server_starts = server_starts + 1 WHERE id = ?
      RETURNING server_starts`),
    releaseAll: sqlite.prepare(
      'UPDATE predictions SET executor = NULL, is_running = 0 WHERE executor IS NOT NULL',
    ),
    firstDeadline: sqlite
      .prepare<[], number>(
        `SELECT deadline FROM predictions WHERE deadline IS NOT NULL AND completed_at IS NULL
         ORDER BY deadline LIMIT 1`,
      )
      .pluck(),
  }
}

type Columns = ReturnType<typeof toColumns>
