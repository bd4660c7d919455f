/**
 * The one SQLite file of a server. A write is on disk when it returns (WAL, synchronous=FULL);
 * `commitSoon` lets all writes of one turn of the event loop share one sync.
 */
import { basename, dirname } from 'node:path'
import Sqlite from 'better-sqlite3'
import { FluxdError } from '../../errors.js'
import { makeWritable } from '../writableFolder.js'
import { migrate } from './migrations.js'

export type Database = {
  /** For the repositories of this folder. */
  readonly sqlite: Sqlite.Database
  /** Runs `write` in a transaction (inside another one: in a savepoint). Throws `storage_full`. */
  readonly commit: <T>(write: () => T) => T
  /** As `commit`, but on disk only with the next write that is: for what means nothing without it. */
  readonly commitLater: <T>(write: () => T) => T
  /** As `commit`, together with what else is written in this turn; resolves when it is on disk. */
  readonly commitSoon: <T>(write: () => T) => Promise<T>
  /** Writes what is still to be written. */
  readonly close: () => void
}

/** One write of a batch: done in a savepoint, and told how it went when the batch is on disk. */
type Pending = { readonly run: () => void; readonly settle: (failure?: unknown) => void }

/** Opens and migrates the file. Throws a sentence when it is damaged or of a newer version. */
export function openDatabase(path: string): Database {
  const sqlite = open(path)
  let batch: Pending[] = []

  function commit<T>(write: () => T): T {
    try {
      return sqlite.transaction(write)()
    } catch (error) {
      throw explain(error, path)
    }
  }

  /** Whatever is written later is never on disk without it: the log keeps their order. */
  function commitLater<T>(write: () => T): T {
    // The transaction around it decides.
    if (sqlite.inTransaction) return commit(write)
    sqlite.pragma('synchronous = NORMAL')
    try {
      return commit(write)
    } finally {
      sqlite.pragma('synchronous = FULL')
    }
  }

  const commitSoon = <T>(write: () => T): Promise<T> =>
    new Promise((resolve, reject) => {
      let settle = (): void => undefined
      const run = () => {
        try {
          const result = commit(write)
          settle = () => resolve(result)
        } catch (error) {
          settle = () => reject(error)
        }
      }
      if (batch.length === 0) setImmediate(flush)
      batch.push({ run, settle: (failure) => (failure ? reject(failure) : settle()) })
    })

  /** A write that fails rolls back alone; when the common sync fails, all have failed. */
  function flush(): void {
    const writes = batch
    batch = []
    let failure: unknown
    try {
      commit(() => {
        for (const { run } of writes) run()
      })
    } catch (error) {
      failure = error
    }
    for (const { settle } of writes) settle(failure)
  }

  function close(): void {
    if (batch.length > 0) flush()
    sqlite.close()
  }

  return { sqlite, commit, commitLater, commitSoon, close }
}

function open(path: string): Sqlite.Database {
  makeWritable(dirname(path))
  try {
    const sqlite = new Sqlite(path, { timeout: 5000 })
    sqlite.pragma('journal_mode = WAL')
    sqlite.pragma('synchronous = FULL')
    sqlite.pragma('foreign_keys = ON')
    const [verdict] = sqlite.pragma('quick_check(1)', { simple: false }) as {
      quick_check: string
    }[]
    if (verdict?.quick_check !== 'ok') throw damaged(path, verdict?.quick_check ?? 'unreadable')
    migrate(sqlite, path)
    return sqlite
  } catch (error) {
    throw explain(error, path)
  }
}

/** SQLite's failures that an operator can do something about, as sentences. */
function explain(error: unknown, path: string): unknown {
  if (!(error instanceof Sqlite.SqliteError)) return error
  if (error.code === 'SQLITE_FULL' || error.code.startsWith('SQLITE_IOERR'))
    return new FluxdError(
      'storage_full',
      `Expected room for ${basename(path)} but the disk is full`,
      {
        cause: error,
      },
    )
  if (error.code.startsWith('SQLITE_CORRUPT') || error.code === 'SQLITE_NOTADB')
    return damaged(path, error.message, error)
  return error
}

const damaged = (path: string, reason: string, cause?: unknown) =>
  new FluxdError(
    'store_damaged',
    `Expected ${path} to be the store of fluxd but it is damaged (${reason}); ` +
      'restore a copy, or move it away to begin with an empty one',
    { cause },
  )
