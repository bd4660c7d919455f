/**
 * The one SQLite file of a server (WAL). Writes of one turn of the event loop share one transaction
 * and one sync; a file that another process has locked is tried again without blocking the thread.
 */
import { basename, dirname } from 'node:path'
import Sqlite from 'better-sqlite3'
import { FluxdError } from '../../errors.js'
import { makeWritable } from '../writableFolder.js'
import { connect } from './connect.js'
import { migrate } from './migrations.js'

export type Database = {
  /** For reads, and for the repositories' prepared statements. */
  readonly sqlite: Sqlite.Database
  /** Runs `change` in a transaction; resolves when it is on disk. Throws `storage_full`. */
  readonly write: <T>(change: () => T) => Promise<T>
  /**
   * As `write`, but on disk only with the next `write`: for what means nothing without it. The log
   * keeps their order, so that what is written later is never there without it.
   */
  readonly writeLater: <T>(change: () => T) => Promise<T>
  /** Writes what is still to be written. */
  readonly close: () => void
}

/** One change of a batch, in a savepoint; it settles when the batch is on disk. */
type Pending = {
  readonly isDurable: boolean
  /** Makes the change; returns why it could not be made. */
  readonly run: () => unknown
  readonly settle: (failure?: unknown) => void
}

// At the start, another process may be migrating the file.
const openTimeoutMs = 5000
// The thread stands still for so long at most; then the batch waits for its next try.
const lockTimeoutMs = 20
const lockedPauseMs = 100

/** Opens and migrates the file. Throws a sentence when it is damaged or of a newer version. */
export function openDatabase(path: string): Database {
  const sqlite = open(path)
  let batch: Pending[] = []
  let timer: NodeJS.Timeout | undefined

  function enqueue<T>(change: () => T, isDurable: boolean): Promise<T> {
    return new Promise((resolve, reject) => {
      let settle = (): void => undefined
      const run = () => {
        try {
          const result = sqlite.transaction(change)()
          settle = () => resolve(result)
        } catch (error) {
          if (isLocked(error)) throw error
          const failure = explain(error, path)
          settle = () => reject(failure)
          return failure
        }
        return undefined
      }
      if (batch.length === 0) setImmediate(flush)
      batch.push({ isDurable, run, settle: (failure) => (failure ? reject(failure) : settle()) })
    })
  }

  /** A change that fails rolls back alone; when the common sync fails, all have failed. */
  function flush(): void {
    if (batch.length === 0 || timer !== undefined) return
    const writes = batch
    batch = []
    let failure: unknown
    try {
      commit(writes)
    } catch (error) {
      if (isLocked(error)) {
        retry(writes)
        return
      }
      failure = explain(error, path)
    }
    for (const { settle } of writes) settle(failure)
  }

  function commit(writes: readonly Pending[]): void {
    const isDurable = writes.some((write) => write.isDurable)
    if (!isDurable) sqlite.pragma('synchronous = NORMAL')
    try {
      sqlite
        .transaction(() => {
          for (const { run } of writes) {
            const failure = run()
            // A full disk ends the whole transaction: nothing of the batch may be acknowledged.
            if (!sqlite.inTransaction) throw failure ?? rolledBack(path)
          }
        })
        .immediate()
    } finally {
      if (!isDurable) sqlite.pragma('synchronous = FULL')
    }
  }

  function retry(writes: Pending[]): void {
    batch = [...writes, ...batch]
    timer = setTimeout(() => {
      timer = undefined
      flush()
    }, lockedPauseMs)
  }

  function close(): void {
    clearTimeout(timer)
    timer = undefined
    if (!sqlite.open) return
    flush()
    clearTimeout(timer)
    sqlite.close()
    const closed = new FluxdError('storage_full', 'The store is closed')
    for (const { settle } of batch.splice(0)) settle(closed)
  }

  return {
    sqlite,
    write: (change) => enqueue(change, true),
    writeLater: (change) => enqueue(change, false),
    close,
  }
}

function open(path: string): Sqlite.Database {
  makeWritable(dirname(path))
  try {
    const sqlite = connect(path, { timeout: openTimeoutMs })
    sqlite.pragma('journal_mode = WAL')
    sqlite.pragma('synchronous = FULL')
    sqlite.pragma('foreign_keys = ON')
    const [verdict] = sqlite.pragma('quick_check(1)', { simple: false }) as {
      quick_check: string
    }[]
    if (verdict?.quick_check !== 'ok') throw damaged(path, verdict?.quick_check ?? 'unreadable')
    migrate(sqlite, path)
    sqlite.pragma(`busy_timeout = ${lockTimeoutMs}`)
    return sqlite
  } catch (error) {
    throw explain(error, path)
  }
}

const isLocked = (error: unknown) =>
  error instanceof Sqlite.SqliteError &&
  (error.code.startsWith('SQLITE_BUSY') || error.code.startsWith('SQLITE_LOCKED'))

/** SQLite's failures that an operator can do something about, as sentences. */
function explain(error: unknown, path: string): unknown {
  if (!(error instanceof Sqlite.SqliteError)) return error
  if (error.code === 'SQLITE_FULL' || error.code.startsWith('SQLITE_IOERR'))
    return new FluxdError(
      'storage_full',
      `Expected room for ${basename(path)} but the disk is full`,
      { cause: error },
    )
  if (error.code.startsWith('SQLITE_CORRUPT') || error.code === 'SQLITE_NOTADB')
    return damaged(path, error.message, error)
  return error
}

const rolledBack = (path: string) =>
  new FluxdError(
    'storage_full',
    `Expected ${basename(path)} to take a write but it was rolled back`,
  )

const damaged = (path: string, reason: string, cause?: unknown) =>
  new FluxdError(
    'store_damaged',
    `Expected ${path} to be the store of fluxd but it is damaged (${reason}); ` +
      'restore a copy, or move it away to begin with an empty one',
    { cause },
  )
