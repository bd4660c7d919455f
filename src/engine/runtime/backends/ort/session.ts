/**
 * The one file that meets onnxruntime-node. Sessions run synchronously on the calling thread, so
 * only an engine process may create them.
 */
import './telemetry.js'
import { InferenceSession, Tensor as OrtTensor } from 'onnxruntime-node'
import type { Tensor } from '../../../../safetensors/tensor.js'
import { modelConfig } from '../../onnx/proto.js'
import { loadFailure, runFailure } from '../cudaErrors.js'

export type SessionOptions = {
  /** The CPU by default; on CUDA no operator may fall back to the CPU. */
  readonly device?: 'cpu' | 'cuda'
  /** Threads of an operator; 0 lets ONNX Runtime decide. */
  readonly threads: number
  /**
   * Where weights of other dtypes become float32, and in fp8 are rounded: `load` does it once and
   * keeps the copy, `run` does it in every run and keeps the weights mapped from their file.
   */
  readonly widenWeights: 'load' | 'run'
  /** Whether the memory of a run is kept for the next one; yes by default. */
  readonly arena?: boolean
}

export type Tensors = Readonly<Record<string, Tensor>>

export type RunOptions = {
  /**
   * Ends the run, which then rejects with the signal's reason. Sessions of onnxruntime-node go on:
   * they hold the thread on which a signal would be heard.
   */
  readonly signal?: AbortSignal | undefined
}

export type Runnable = {
  /** Runs the graph once; the values of all its outputs, by name. */
  readonly run: (inputs: Tensors, options?: RunOptions) => Promise<Tensors>
  /**
   * The graph with these inputs bound: they are on the session's device for all runs that follow,
   * and must not be changed until they are released.
   */
  readonly bindInputs: (inputs: Tensors) => Promise<BoundInputs>
}

export type BoundInputs = Runnable & {
  /** Frees the memory of the inputs that were bound last; it cannot run after this. */
  readonly release: () => Promise<void>
}

export type Session = Runnable & {
  /** Seconds spent inside ONNX Runtime so far. */
  readonly busySeconds: () => number
  /** Gives the session's memory back; it cannot run after this. */
  readonly release: () => Promise<void>
}

/**
 * A session over model bytes whose external initializers are absolute paths.
 * On the GPU it and its runs throw `engine_failed` with ONNX Runtime's own words; a run throws
 * `engine_died` when this process has lost the GPU.
 */
export async function createSession(model: Uint8Array, options: SessionOptions): Promise<Session> {
  const isOnCuda = options.device === 'cuda'
  const session = await (isOnCuda ? openOnCuda(model, options) : openOnCpu(model, options))
  let busyMs = 0
  async function run(inputs: Tensors) {
    const feeds = mapValues(inputs, toOrt)
    const startedAt = performance.now()
    const results = await (isOnCuda ? runOnCuda(session, feeds) : session.run(feeds))
    busyMs += performance.now() - startedAt
    return mapValues(results, fromOrt)
  }

  return {
    ...createRunnable(run),
    busySeconds: () => busyMs / 1000,
    release: () => session.release(),
  }
}

/** `run` with bound inputs that stay in JavaScript's memory. */
export const createRunnable = (run: Runnable['run'], bound: Tensors = {}): Runnable => ({
  run: (inputs, options) => run({ ...bound, ...inputs }, options),
  bindInputs: async (inputs) => ({
    ...createRunnable(run, { ...bound, ...inputs }),
    release: async () => {},
  }),
})

/** The results of `map` for each value, by the value's name. */
export const mapValues = <From, To>(
  values: Readonly<Record<string, From>>,
  map: (value: From, name: string) => To,
): Record<string, To> =>
  Object.fromEntries(Object.entries(values).map(([name, value]) => [name, map(value, name)]))

const withoutFolding = { 'optimization.disable_specified_optimizers': 'ConstantFolding' }

const openOnCpu = (model: Uint8Array, { threads, arena = true, widenWeights }: SessionOptions) =>
  InferenceSession.create(model, {
    executionProviders: ['cpu'],
    graphOptimizationLevel: 'all',
    intraOpNumThreads: threads,
    logSeverityLevel: 3,
    enableCpuMemArena: arena,
    extra: {
      ...modelConfig,
      ...(widenWeights === 'run' && { 'session.disable_prepacking': '1', ...withoutFolding }),
    },
  })

async function openOnCuda(model: Uint8Array, { threads }: SessionOptions) {
  try {
    return await InferenceSession.create(model, {
      executionProviders: ['cuda'],
      graphOptimizationLevel: 'basic',
      intraOpNumThreads: threads,
      logSeverityLevel: 3,
      extra: {
        ...modelConfig,
        // Folding happens on the CPU, in copies of the weights.
        ...withoutFolding,
        'session.disable_cpu_ep_fallback': '1',
        // Weights get the memory they need; the arena would round each of its steps up.
        'session.use_device_allocator_for_initializers': '1',
      },
    })
  } catch (cause) {
    throw loadFailure(cause)
  }
}

type Feeds = Parameters<InferenceSession['run']>[0]

async function runOnCuda(session: InferenceSession, feeds: Feeds) {
  try {
    return await session.run(feeds)
  } catch (cause) {
    throw runFailure(cause)
  }
}

const toOrt = (value: Tensor) => new OrtTensor(value.dtype, value.data, value.dims)

function fromOrt({ type, dims, data }: OrtTensor, name: string): Tensor {
  if (type === 'float32') return { dtype: type, dims, data: data as Float32Array }
  if (type === 'uint8') return { dtype: type, dims, data: data as Uint8Array }
  throw new TypeError(`Expected output ${name} to be float32 or uint8 but it is ${type}`)
}
