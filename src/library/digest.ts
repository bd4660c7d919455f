import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { stat } from 'node:fs/promises'

/** The sha256 of files that rarely change, each read once for as long as it stays the same. */
export function createDigests(): (path: string) => Promise<string> {
  const known = new Map<string, { readonly stamp: string; readonly digest: Promise<string> }>()
  return async (path) => {
    const { size, mtimeMs } = await stat(path)
    const stamp = `${size} ${mtimeMs}`
    const last = known.get(path)
    if (last?.stamp === stamp) return last.digest
    const digest = digestFile(path)
    known.set(path, { stamp, digest })
    return digest
  }
}

async function digestFile(path: string): Promise<string> {
  const hash = createHash('sha256')
  for await (const chunk of createReadStream(path)) hash.update(chunk)
  return hash.digest('hex')
}
