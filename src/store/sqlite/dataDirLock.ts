/**
 * One server for each data folder. The lock is SQLite's own on a file of its own: it goes with the
 * process, however that ends, and leaves the store open to `fluxd keys`.
 */
import { dirname } from 'node:path'
import Sqlite from 'better-sqlite3'
import { FluxdError } from '../../errors.js'
import { makeWritable } from '../writableFolder.js'
import { connect } from './connect.js'

/** Takes the lock, and returns how to give it back. Throws when another process has it. */
export function takeLock(path: string): () => void {
  makeWritable(dirname(path))
  const sqlite = connect(path, { timeout: 0 })
  try {
    // Without a journal nothing is written: only the lock counts.
    sqlite.pragma('journal_mode = MEMORY')
    sqlite.exec('BEGIN EXCLUSIVE')
  } catch (error) {
    sqlite.close()
    if (!(error instanceof Sqlite.SqliteError) || !error.code.startsWith('SQLITE_BUSY')) throw error
    throw new FluxdError(
      'config_invalid',
      `Expected ${dirname(path)} to be free but another fluxd serves from it; set FLUXD_DATA_DIR`,
      { cause: error },
    )
  }
  return () => void sqlite.close()
}
