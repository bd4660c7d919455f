/** A look at a store without changing it: for `fluxd doctor`, also while a server runs on it. */
import { existsSync } from 'node:fs'
import Sqlite from 'better-sqlite3'

export type StoreInspection =
  | { readonly kind: 'sound'; readonly keys: number }
  | { readonly kind: 'missing' }
  | { readonly kind: 'damaged'; readonly reason: string }
  /** SQLite itself cannot be loaded: its native part has not been built. */
  | { readonly kind: 'unavailable'; readonly reason: string }

/** What is at `path`, the file of a store. */
export function inspectStore(path: string): StoreInspection {
  const failure = findLoadFailure()
  if (failure !== undefined) return { kind: 'unavailable', reason: failure }
  if (!existsSync(path)) return { kind: 'missing' }
  try {
    const sqlite = new Sqlite(path, { readonly: true, timeout: 1000 })
    try {
      return inspect(sqlite)
    } finally {
      sqlite.close()
    }
  } catch (error) {
    return { kind: 'damaged', reason: firstLine(error) }
  }
}

function findLoadFailure(): string | undefined {
  try {
    new Sqlite(':memory:').close()
    return undefined
  } catch (error) {
    return firstLine(error)
  }
}

function inspect(sqlite: Sqlite.Database): StoreInspection {
  const verdict = sqlite.pragma('quick_check(1)', { simple: true })
  if (verdict !== 'ok') return { kind: 'damaged', reason: String(verdict) }
  const { keys } = sqlite.prepare('SELECT count(*) AS keys FROM keys').get() as { keys: number }
  return { kind: 'sound', keys }
}

/** Failures of loading list every path that was tried. */
const firstLine = (error: unknown) =>
  (error instanceof Error ? error.message : String(error)).split('\n', 1)[0]!
