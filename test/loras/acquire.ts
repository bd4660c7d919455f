/**
 * A process that acquires LoRAs, to be killed: `tsx acquire.ts <dataDir> <origin> <references>`. Of
 * several references, separated by spaces, there is room for two, and it begins again and again;
 * the one that follows the word `hold` is held for ever.
 */
import { createLoraCache } from '../../src/loras/loraCache.js'

const [dataDir, origin, references] = process.argv.slice(2) as [string, string, string]
const all = references.replace(/^hold /, '').split(' ')
const host = { url: origin, token: undefined }
const cache = createLoraCache({
  dataDir,
  hosts: { huggingFace: host, civitai: host, replicate: host },
  allowedHosts: ['127.0.0.1'],
  loras: { maxBytes: 2 ** 20, cacheBytes: all.length > 1 ? 25_000 : 2 ** 24, minFreeBytes: 0 },
})
const options = { signal: new AbortController().signal, writeLine: () => {} }
if (references.startsWith('hold ')) {
  await cache.acquire(all[0]!, options)
  await new Promise(() => setInterval(() => {}, 1000))
}
do for (const reference of all) (await cache.acquire(reference, options)).release()
while (all.length > 1)
await cache.close()
