/** How often each model has been run, in SQLite: a trigger counts with the admission. */
import type { RunCounts } from '../store.js'
import type { Database } from './database.js'

/** What a count over all predictions went through; `runTable` took its place. */
export const runIndex = 'CREATE INDEX predictions_by_model ON predictions (model)'

export const runTable = `
  CREATE TABLE runs (
    model TEXT PRIMARY KEY,
    count INTEGER NOT NULL
  ) STRICT, WITHOUT ROWID;
  INSERT INTO runs SELECT model, COUNT(*) FROM predictions GROUP BY model;
  CREATE TRIGGER count_run AFTER INSERT ON predictions BEGIN
    INSERT INTO runs VALUES (NEW.model, 1)
    ON CONFLICT (model) DO UPDATE SET count = count + 1;
  END;
  DROP INDEX predictions_by_model`

export function createRunCounts({ sqlite }: Database): RunCounts {
  const counts = sqlite.prepare<[], { model: string; count: number }>('SELECT * FROM runs')
  return { count: async () => new Map(counts.all().map(({ model, count }) => [model, count])) }
}
