/**
 * Opens SQLite files; a native part that was not built for this Node is a sentence with its fix.
 */
import Sqlite from 'better-sqlite3'
import { FluxdError } from '../../errors.js'

/**
 * The database at `path`. Throws `config_invalid` where better-sqlite3 was not built for this Node.
 */
export function connect(path: string, options: Sqlite.Options): Sqlite.Database {
  try {
    return new Sqlite(path, options)
  } catch (error) {
    throw error instanceof Error && isMissingBuild(error) ? notBuilt(error) : error
  }
}

/** No file at all (an install script that npm did not run), or one for another version of Node. */
const isMissingBuild = (error: Error) =>
  error.message.startsWith('Could not locate the bindings file') ||
  ('code' in error && error.code === 'ERR_DLOPEN_FAILED')

const notBuilt = (cause: Error) =>
  new FluxdError(
    'config_invalid',
    `Expected better-sqlite3 to be built for Node ${process.versions.node} but it is not; run ` +
      '`npm rebuild better-sqlite3`, or install again with `--allow-scripts=better-sqlite3` ' +
      'where fluxd was installed globally',
    { cause },
  )
