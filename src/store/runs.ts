/** How often each model has been run, of the predictions that are still known. */
import type { Database } from './database.js'

export type RunCounts = {
  /** By `owner/name`; a model without a run is absent. */
  readonly count: () => ReadonlyMap<string, number>
}

export const runIndex = 'CREATE INDEX predictions_by_model ON predictions (model)'

export function createRunCounts({ sqlite }: Database): RunCounts {
  const counts = sqlite.prepare<[], { model: string; runs: number }>(
    'SELECT model, COUNT(*) AS runs FROM predictions GROUP BY model',
  )
  return { count: () => new Map(counts.all().map(({ model, runs }) => [model, runs])) }
}
