/** The peak memory of the engine. */
import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { setTimeout } from 'node:timers/promises'
import { promisify } from 'node:util'

const run = promisify(execFile)

/** Peak resident memory of a process so far; undefined where there is no /proc. */
export function peakResidentBytes(pid: number): number | undefined {
  try {
    const status = readFileSync(`/proc/${pid}/status`, 'utf8')
    return Number(/VmHWM:\s+(\d+) kB/.exec(status)?.[1]) * 1024
  } catch {
    return undefined
  }
}

export type DeviceMemoryWatch = {
  /** The largest increase of any GPU's used memory; undefined without a GPU. */
  readonly stop: () => Promise<number | undefined>
}

const pauseMs = 250

/** Samples the GPUs' memory until `stop`; resolves with the first sample. */
export async function watchDeviceMemory(smi = 'nvidia-smi'): Promise<DeviceMemoryWatch> {
  const first = await readUsedBytes(smi)
  const stopping = new AbortController()
  let peak = 0
  const watching = watch()

  async function watch() {
    while (first.length > 0 && !stopping.signal.aborted) {
      const rises = (await readUsedBytes(smi)).map((used, card) => used - (first[card] ?? 0))
      peak = Math.max(peak, ...rises)
      await setTimeout(pauseMs, undefined, { signal: stopping.signal }).catch(() => {})
    }
  }

  return {
    async stop() {
      stopping.abort()
      await watching
      return first.length === 0 ? undefined : peak
    },
  }
}

/** The used memory of each GPU; empty where there is no driver. */
async function readUsedBytes(smi: string): Promise<number[]> {
  const flags = ['--query-gpu=memory.used', '--format=csv,noheader,nounits']
  const { stdout } = await run(smi, flags, { timeout: 10_000 }).catch(() => ({ stdout: '' }))
  return [...stdout.matchAll(/^(\d+)$/gm)].map(([, mebibytes]) => Number(mebibytes) * 2 ** 20)
}
