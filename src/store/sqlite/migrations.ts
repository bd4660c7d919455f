/**
 * The tables, as the steps that made them what they are: a step that was released never changes.
 */
import type Sqlite from 'better-sqlite3'
import { FluxdError } from '../../errors.js'
import { keyTable } from './apiKeys.js'
import { deploymentTable } from './deployments.js'
import { queueTotals } from './predictionQueue.js'
import { runIndex, runTable } from './runCounts.js'
import { secretTable } from './secrets.js'

/** Times are milliseconds since 1970; what ends in _json is JSON. */
const steps: readonly string[] = [
  `CREATE TABLE predictions (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    surface TEXT NOT NULL,
    model TEXT NOT NULL,
    version TEXT NOT NULL,
    deployment TEXT,
    key_id TEXT,
    priority INTEGER NOT NULL,
    status TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    started_at INTEGER,
    completed_at INTEGER,
    deadline INTEGER,
    sent_created_at TEXT,
    excerpt_json TEXT NOT NULL,
    logs TEXT NOT NULL DEFAULT '',
    output_json TEXT,
    error TEXT,
    metrics_json TEXT NOT NULL DEFAULT '{}',
    webhook_json TEXT,
    data_removed INTEGER NOT NULL DEFAULT 0,
    stream_token TEXT NOT NULL UNIQUE,
    server_starts INTEGER NOT NULL DEFAULT 0
  );
  CREATE INDEX predictions_by_time ON predictions (created_at, sequence);
  CREATE INDEX predictions_unfinished ON predictions (sequence)
    WHERE status IN ('starting', 'processing');
  CREATE INDEX predictions_to_clear ON predictions (completed_at)
    WHERE completed_at IS NOT NULL AND data_removed = 0;
  CREATE TABLE inputs (
    sequence INTEGER PRIMARY KEY REFERENCES predictions (sequence) ON DELETE CASCADE,
    sent_json TEXT,
    wish_json TEXT NOT NULL
  );
  CREATE TABLE idempotency (
    owner TEXT NOT NULL,
    key TEXT NOT NULL,
    body_digest TEXT NOT NULL,
    prediction_id TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (owner, key)
  ) WITHOUT ROWID;
  CREATE TABLE files (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    content_type TEXT NOT NULL,
    size INTEGER NOT NULL,
    md5 TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    metadata_json TEXT NOT NULL,
    prediction_id TEXT,
    key_id TEXT,
    created_at INTEGER NOT NULL,
    expires_at INTEGER
  );
  CREATE INDEX files_by_prediction ON files (prediction_id) WHERE prediction_id IS NOT NULL;
  CREATE INDEX files_by_expiry ON files (expires_at) WHERE expires_at IS NOT NULL;
  CREATE TABLE deliveries (
    id TEXT PRIMARY KEY,
    prediction_id TEXT NOT NULL,
    event TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL,
    due_at INTEGER,
    settled_at INTEGER,
    error TEXT
  ) WITHOUT ROWID;
  CREATE INDEX deliveries_by_due ON deliveries (due_at) WHERE due_at IS NOT NULL;
  CREATE INDEX deliveries_by_end ON deliveries (settled_at) WHERE settled_at IS NOT NULL;
  CREATE INDEX deliveries_by_prediction ON deliveries (prediction_id);`,
  keyTable,
  `${deploymentTable};
  ${secretTable};
  ${runIndex}`,
  `ALTER TABLE inputs ADD COLUMN files_json TEXT;
  ${runTable}`,
  // The queue is an index of the rows: see predictionQueue.ts.
  `ALTER TABLE predictions ADD COLUMN owner TEXT NOT NULL DEFAULT '';
  ALTER TABLE predictions ADD COLUMN turn INTEGER NOT NULL DEFAULT 0;
  ALTER TABLE predictions ADD COLUMN lora_set TEXT NOT NULL DEFAULT '';
  ALTER TABLE predictions ADD COLUMN cost_kind TEXT NOT NULL DEFAULT 'dev bf16';
  ALTER TABLE predictions ADD COLUMN cost_tokens REAL NOT NULL DEFAULT 0;
  ALTER TABLE predictions ADD COLUMN cost_step_tokens REAL NOT NULL DEFAULT 0;
  ALTER TABLE predictions ADD COLUMN executor TEXT;
  ALTER TABLE predictions ADD COLUMN claim INTEGER NOT NULL DEFAULT 0;
  ALTER TABLE predictions ADD COLUMN is_running INTEGER NOT NULL DEFAULT 0;
  ALTER TABLE predictions ADD COLUMN overtaken_at INTEGER;
  ALTER TABLE predictions ADD COLUMN traceparent TEXT;
  UPDATE predictions SET owner = COALESCE(key_id, '') WHERE completed_at IS NULL;
  CREATE INDEX predictions_queue
    ON predictions (priority DESC, turn, sequence, cost_kind, cost_tokens, cost_step_tokens)
    WHERE completed_at IS NULL AND is_running = 0;
  CREATE INDEX predictions_by_owner ON predictions (owner, priority, turn)
    WHERE completed_at IS NULL AND is_running = 0;
  CREATE INDEX predictions_held ON predictions (executor) WHERE executor IS NOT NULL;
  CREATE INDEX predictions_by_deadline ON predictions (deadline)
    WHERE deadline IS NOT NULL AND completed_at IS NULL;
  ${queueTotals}`,
]

/** Brings the file to the newest version; throws when it is of a newer one than this fluxd. */
export function migrate(sqlite: Sqlite.Database, path: string): void {
  const version = sqlite.pragma('user_version', { simple: true }) as number
  if (version > steps.length)
    throw new FluxdError(
      'store_damaged',
      `Expected ${path} to be of version ${steps.length} or older but it is of ${version}: ` +
        'a newer fluxd has written it',
    )
  sqlite
    .transaction(() => {
      for (const step of steps.slice(version)) sqlite.exec(step)
      sqlite.pragma(`user_version = ${steps.length}`)
    })
    .immediate()
}
