/** Cached sha256 digests of files that rarely change. */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { stat } from 'node:fs/promises'
import { basename } from 'node:path'
import { codeOf, invalidLora } from '../../errors.js'

/**
 * A function that returns the sha256 of a file. Each file is read once until its size or its time
 * of modification changes. Throws `lora_invalid`, naming the file but not its folder, for an
 * unreadable one.
 */
export function createDigests(): (path: string) => Promise<string> {
  const known = new Map<string, { readonly stamp: string; readonly digest: Promise<string> }>()
  return async (path) => {
    try {
      const { size, mtimeMs } = await stat(path)
      const stamp = `${size} ${mtimeMs}`
      const last = known.get(path)
      if (last?.stamp === stamp) return await last.digest
      const digest = digestFile(path)
      known.set(path, { stamp, digest })
      return await digest
    } catch (error) {
      known.delete(path)
      throw unreadable(path, error)
    }
  }
}

function unreadable(path: string, error: unknown) {
  return invalidLora(
    `Expected ${basename(path)} to be a file that can be read (${codeOf(error)})`,
    error,
  )
}

async function digestFile(path: string): Promise<string> {
  const hash = createHash('sha256')
  for await (const chunk of createReadStream(path)) hash.update(chunk)
  return hash.digest('hex')
}
