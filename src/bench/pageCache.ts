/** The system's page cache, which decides how fast a file is read. */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'

const run = promisify(execFile)

/** The share of the files' bytes in the page cache; undefined where `fincore` is missing. */
export async function cachedShare(files: readonly string[]): Promise<number | undefined> {
  const flags = ['--bytes', '--noheadings', '--raw', '--output', 'RES,SIZE']
  const { stdout } = await run('fincore', [...flags, ...files]).catch(() => ({ stdout: '' }))
  const rows = [...stdout.matchAll(/^(\d+) (\d+)$/gm)]
  const total = (column: 1 | 2) => rows.reduce((sum, row) => sum + Number(row[column]), 0)
  // A page is cached as a whole, also where the file ends within it.
  return rows.length === 0 ? undefined : Math.min(1, total(1) / total(2))
}

/** Asks the system to drop the files from its cache; `cachedShare` measures whether it did. */
export async function dropFromCache(files: readonly string[]): Promise<void> {
  for (const file of files) {
    // Written back first, as only clean pages can be dropped.
    await run('sync', [file]).catch(() => {})
    await run('dd', [`if=${file}`, 'iflag=nocache', 'count=0']).catch(() => {})
  }
}
