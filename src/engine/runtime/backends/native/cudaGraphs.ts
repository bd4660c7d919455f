/**
 * Runs as CUDA graphs: one launch instead of one for each kernel. A graph holds the addresses that
 * it reads and writes, so each set of shapes has inputs and outputs of its own. It also has a
 * session of its own, over the same weights, in which nothing else runs: a graph uploads the tables
 * of Concat and Split again each time, from memory that ONNX Runtime 1.29 reuses for the next run
 * in that session (microsoft/onnxruntime#32121).
 */

import { mapValues, type RunOptions } from '../ort/session.js'
import type { Addon, DeviceTensor, NativeDevice, NativeDType } from './addon.js'
import type { Executor, LoadedSession, Operand, Operands, Results } from './session.js'

export type CaptureSettings = {
  readonly addon: Addon
  readonly device: NativeDevice
  /** Loads the graph once more, into a session that captures its runs. */
  readonly load: () => Promise<LoadedSession>
  /** How many sets of shapes are captured; each takes the memory of a run. */
  readonly limit: number
  /** Gets a sentence when shapes cannot be captured. */
  readonly onWarning: (message: string) => void
}

type Captured = {
  readonly replay: (operands: Operands) => Promise<Results>
  readonly release: () => Promise<void>
}

/**
 * `ordinary`, whose runs of the first `limit` shapes are captured from their second run on. Such a
 * run is not ended when it is canceled: half a graph would be captured, and replayed from then on.
 * Shapes that cannot be captured, mostly for lack of memory, run as before.
 */
export function createCapturing(ordinary: Executor, settings: CaptureSettings): Executor {
  const captured = new Map<string, Captured>()
  const replayed = new Set<Captured>()
  const refused = new Set<string>()

  function refuse(key: string, cause: unknown) {
    refused.add(key)
    settings.onWarning(`no CUDA graph of a step over ${key}, which runs as before: ${cause}`)
  }

  async function prepare(key: string, operands: Operands, results: Results) {
    try {
      captured.set(key, await prepareCapture(operands, results, settings))
    } catch (cause) {
      refuse(key, cause)
    }
  }

  async function replay(key: string, own: Captured, operands: Operands, options: RunOptions) {
    try {
      const results = await own.replay(operands)
      replayed.add(own)
      return results
    } catch (cause) {
      captured.delete(key)
      await own.release()
      if (replayed.delete(own)) throw cause
      refuse(key, cause)
      // Where the GPU itself is lost, this says so.
      return ordinary.run(operands, options)
    }
  }

  return {
    async run(operands, options) {
      const key = JSON.stringify(mapValues(operands, ({ dims }) => dims))
      const own = captured.get(key)
      if (own) return replay(key, own, operands, options)
      const results = await ordinary.run(operands, options)
      if (captured.size < settings.limit && !refused.has(key)) await prepare(key, operands, results)
      return results
    },
    async release() {
      for (const each of captured.values()) await each.release()
      await ordinary.release()
    },
  }
}

type Shape = { readonly dtype: NativeDType; readonly dims: readonly number[] }

/** A session that captures its first run, over tensors for these inputs and outputs. */
async function prepareCapture(
  operands: Operands,
  results: Results,
  { addon, device, load }: CaptureSettings,
): Promise<Captured> {
  const tensors: DeviceTensor[] = []
  const { session, release: releaseSession } = await load()

  async function release() {
    // The graph points to the tensors.
    await releaseSession()
    for (const tensor of tensors) await tensor.release()
  }

  function allocate({ dtype, dims }: Shape) {
    const tensor = new addon.Tensor(device, dtype, dims)
    tensors.push(tensor)
    return tensor
  }

  try {
    const sources = mapValues(operands, allocate)
    const targets = mapValues(results, allocate)
    const write = createWriter(sources)
    async function replay(operands: Operands) {
      await write(operands)
      await session.run(sources, targets)
      const read: Record<string, Results[string]> = {}
      for (const [name, { dtype, dims }] of Object.entries(results))
        read[name] = { dtype, dims, data: await targets[name]!.read() }
      return read
    }
    return { replay, release }
  } catch (cause) {
    await release()
    throw cause
  }
}

/** Writes the operands' values into the tensors; those on the device are copied only once. */
function createWriter(tensors: Readonly<Record<string, DeviceTensor>>) {
  const written = new Map<string, Operand>()
  return async (operands: Operands) => {
    for (const [name, operand] of Object.entries(operands)) {
      if ('tensor' in operand && written.get(name) === operand) continue
      written.delete(name)
      await ('tensor' in operand
        ? tensors[name]!.copyFrom(operand.tensor)
        : tensors[name]!.write(operand.data))
      written.set(name, operand)
    }
  }
}
