/** Sessions of the native addon: bound inputs stay on its device, and a signal ends runs. */

import type { Tensor } from '../../../../safetensors/tensor.js'
import {
  mapValues,
  type Runnable,
  type RunOptions,
  type Session,
  type Tensors,
} from '../ort/session.js'
import type {
  Addon,
  DeviceTensor,
  HostTensor,
  NativeDevice,
  NativeDType,
  NativeSession,
} from './addon.js'

/** An input of a run: values in JavaScript's memory, or a tensor on the device. */
export type Operand = { readonly dtype: NativeDType; readonly dims: readonly number[] } & (
  | { readonly data: ArrayBufferView }
  | { readonly tensor: DeviceTensor }
)

export type Operands = Readonly<Record<string, Operand>>
export type Results = Readonly<Record<string, HostTensor>>

/** Runs one graph on a device. */
export type Executor = {
  readonly run: (operands: Operands, options: RunOptions) => Promise<Results>
  readonly release: () => Promise<void>
}

export type ExecutorSettings = {
  readonly addon: Addon
  readonly device: NativeDevice
  /** The error for a failure of the device. */
  readonly failure: (cause: unknown) => unknown
}

export type LoadedSession = {
  readonly session: NativeSession
  /** Frees the session and its weights. */
  readonly release: () => Promise<void>
}

/** Runs a session for these outputs. A signal ends its runs, waiting ones included. */
export function createExecutor(
  { session, release }: LoadedSession,
  outputs: readonly string[],
): Executor {
  const requested = Object.fromEntries(outputs.map((name) => [name, null]))
  return {
    async run(operands, { signal }) {
      const end = () => session.terminate()
      signal?.addEventListener('abort', end)
      try {
        return await session.run(mapValues(operands, toInput), requested)
      } catch (cause) {
        throw signal?.aborted && isTermination(cause) ? signal.reason : cause
      } finally {
        signal?.removeEventListener('abort', end)
      }
    },
    release,
  }
}

// A run that fails for another reason while it is being ended has failed for that reason.
const isTermination = (cause: unknown) => /terminate flag/.test(String(cause))

const toInput = (operand: Operand) => ('tensor' in operand ? operand.tensor : operand)

/** A session whose runs are those of `executor`. */
export function createNativeSession(
  executor: Executor,
  { addon, device, failure }: ExecutorSettings,
): Session {
  let busyMs = 0

  async function run(operands: Operands, options: RunOptions = {}): Promise<Tensors> {
    const { signal } = options
    signal?.throwIfAborted()
    const startedAt = performance.now()
    try {
      return mapValues(await executor.run(operands, options), fromNative)
    } catch (cause) {
      throw signal?.aborted && cause === signal.reason ? cause : failure(cause)
    } finally {
      busyMs += performance.now() - startedAt
    }
  }

  async function upload(inputs: Tensors) {
    const operands: Record<string, Operand> = {}
    const tensors: DeviceTensor[] = []
    const release = async () => {
      for (const tensor of tensors) await tensor.release()
    }
    try {
      for (const [name, input] of Object.entries(inputs)) {
        const { dtype, dims, data } = toOperand(input)
        const tensor = new addon.Tensor(device, dtype, dims)
        tensors.push(tensor)
        await tensor.write(data)
        operands[name] = { dtype, dims, tensor }
      }
      return { operands, release }
    } catch (cause) {
      await release()
      throw failure(cause)
    }
  }

  const bind = (bound: Operands): Runnable => ({
    run: (inputs, options) => run({ ...bound, ...mapValues(inputs, toOperand) }, options),
    async bindInputs(inputs) {
      const { operands, release } = await upload(inputs)
      return { ...bind({ ...bound, ...operands }), release }
    },
  })

  return { ...bind({}), busySeconds: () => busyMs / 1000, release: executor.release }
}

const nativeDTypes = {
  float32: 'F32',
  int32: 'I32',
  uint8: 'U8',
} as const satisfies Record<Tensor['dtype'], NativeDType>

const toOperand = ({ dtype, dims, data }: Tensor) => ({ dtype: nativeDTypes[dtype], dims, data })

function fromNative({ dtype, dims, data }: HostTensor, name: string): Tensor {
  if (dtype === 'F32') return { dtype: 'float32', dims, data: new Float32Array(data) }
  if (dtype === 'U8') return { dtype: 'uint8', dims, data: new Uint8Array(data) }
  throw new TypeError(`Expected output ${name} to be F32 or U8 but it is ${dtype}`)
}
