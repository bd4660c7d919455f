import { readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'

/** The bytes of weights at `path`: a safetensors file with its neighbours, or a folder of them; 0 where nothing is. */
export async function measureCheckpoint(path: string): Promise<number> {
  const found = await stat(path).catch(() => undefined)
  if (!found) return 0
  if (!found.isDirectory()) return found.size
  const files = await readdir(path, { recursive: true })
  const sizes = files
    .filter((file) => file.endsWith('.safetensors'))
    .map(async (file) => (await stat(join(path, file))).size)
  return (await Promise.all(sizes)).reduce((sum, size) => sum + size, 0)
}
