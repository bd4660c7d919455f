/**
 * The one file that meets onnxruntime-node. Sessions run synchronously on the calling thread, so
 * only an engine process may create them.
 */
import { InferenceSession, Tensor as OrtTensor } from 'onnxruntime-node'
import type { Tensor } from './tensor.js'

export type SessionOptions = {
  /** Threads of an operator; 0 lets ONNX Runtime decide. */
  readonly threads: number
  /**
   * Where half-precision weights become float32: `load` does it once and keeps the copy, `run` does
   * it in every run and keeps the weights mapped from their file.
   */
  readonly widenWeights: 'load' | 'run'
}

export type Session = {
  /** Runs the graph once; the values of all its outputs, by name. */
  readonly run: (inputs: Readonly<Record<string, Tensor>>) => Promise<Record<string, Tensor>>
  /** Seconds spent inside ONNX Runtime so far. */
  readonly busySeconds: () => number
  /** Gives the session's memory back; it cannot run after this. */
  readonly release: () => Promise<void>
}

/** A session over model bytes whose external initializers are absolute paths. */
export async function createSession(model: Uint8Array, options: SessionOptions): Promise<Session> {
  const session = await InferenceSession.create(model, {
    executionProviders: ['cpu'],
    graphOptimizationLevel: 'all',
    intraOpNumThreads: options.threads,
    logSeverityLevel: 3,
    extra: sessionConfig(options),
  })
  let busyMs = 0
  return {
    async run(inputs) {
      const feeds = Object.fromEntries(
        Object.entries(inputs).map(([name, value]) => [name, toOrt(value)]),
      )
      const startedAt = performance.now()
      const results = await session.run(feeds)
      busyMs += performance.now() - startedAt
      return Object.fromEntries(
        Object.entries(results).map(([name, value]) => [name, fromOrt(name, value)]),
      )
    },
    busySeconds: () => busyMs / 1000,
    release: () => session.release(),
  }
}

const sessionConfig = ({ widenWeights }: SessionOptions): Record<string, string> => ({
  'session.model_external_initializers_file_folder_path': '/',
  ...(widenWeights === 'run' && {
    'session.disable_prepacking': '1',
    'optimization.disable_specified_optimizers': 'ConstantFolding',
  }),
})

const toOrt = (value: Tensor) => new OrtTensor(value.dtype, value.data, value.dims)

function fromOrt(name: string, { type, dims, data }: OrtTensor): Tensor {
  if (type === 'float32') return { dtype: type, dims, data: data as Float32Array }
  if (type === 'uint8') return { dtype: type, dims, data: data as Uint8Array }
  throw new TypeError(`Expected output ${name} to be float32 or uint8 but it is ${type}`)
}
