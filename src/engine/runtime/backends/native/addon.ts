/**
 * The types of the native addon (native/addon, in C++). Every call that returns a promise runs on
 * the one thread of its device, in the order of the calls; only WeightSet.stage has a thread of its
 * own. Arguments of such a call must not be changed before its promise settles.
 */
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'
import { FluxdError } from '../../../../errors.js'

/** Names as in safetensors files. */
export type NativeDType = 'F32' | 'F16' | 'BF16' | 'F8_E4M3' | 'U8' | 'I32' | 'I64'

export type Addon = {
  /**
   * Opens the libonnxruntime.so.1 at `library`, which must be the first call, and returns its
   * version. It is the same copy that onnxruntime-node has opened, where that is loaded.
   */
  readonly open: (library: string) => string
  readonly Device: new (gpu?: NativeGpu) => NativeDevice
  readonly Tensor: new (
    device: NativeDevice,
    dtype: NativeDType,
    dims: readonly number[],
  ) => DeviceTensor
  readonly WeightSet: new (device: NativeDevice) => WeightSet
  readonly Session: new (device: NativeDevice) => NativeSession
}

/** `library` is the path of libfluxd_cuda.so. Without a GPU a device is the CPU. */
export type NativeGpu = { readonly ordinal: number; readonly library: string }

export type NativeDevice = {
  /** Bytes. */
  readonly memory: () => { readonly free: number; readonly total: number }
}

export type HostTensor = {
  readonly dtype: NativeDType
  readonly dims: readonly number[]
  readonly data: ArrayBuffer
}

/** As an operand; the values are read in place. */
export type HostTensorView = Omit<HostTensor, 'data'> & {
  readonly data: ArrayBuffer | ArrayBufferView
}

/** Values that stay on a device between runs. */
export type DeviceTensor = {
  readonly write: (values: ArrayBuffer | ArrayBufferView) => Promise<void>
  /** The values become those of another tensor of the device. */
  readonly copyFrom: (tensor: DeviceTensor) => Promise<void>
  readonly read: () => Promise<ArrayBuffer>
  /** After the calls that were made before. */
  readonly release: () => Promise<void>
}

/** Some rows of a weight, as they are stored in a file or in memory. */
export type WeightPart = { readonly rows: number } & (
  | {
      readonly dtype: 'F32' | 'F16' | 'BF16' | 'F8_E4M3'
      readonly file: string
      readonly offset: number
      /** What F8_E4M3 values are to be multiplied by. */
      readonly scale?: number
    }
  | { readonly dtype: 'F32' | 'BF16'; readonly data: ArrayBufferView }
)

/** A weight of a device: the rows of its parts, one below the other, converted to `dtype`. */
export type WeightSource = {
  readonly name: string
  readonly dims: readonly number[]
  /** F8_E4M3 is for matrices and adds `<name>.scale` [rows] in float32. */
  readonly dtype: 'F32' | 'BF16' | 'F8_E4M3'
  readonly parts: readonly WeightPart[]
}

/** W[begin, begin + rows) = base + (up ⊙ scale)·down. */
export type LowRankChange = {
  readonly name: string
  readonly begin: number
  readonly rows: number
  readonly rank: number
  /** [rows, rank] */
  readonly up: Float32Array
  /** [rank, width] */
  readonly down: Float32Array
  /** [rank], of each column of `up`, for several LoRAs side by side; all 1 without it. */
  readonly scale?: Float32Array
}

/** Weights on a device; a session over them uses those whose names its graph has. */
export type WeightSet = {
  /**
   * `base` says where merges take the base from: the sources, read again, or a second copy on
   * the device; with `none` nothing can be merged, and files and memory are released.
   */
  readonly upload: (
    sources: readonly WeightSource[],
    options: { readonly base: 'none' | 'files' | 'device'; readonly threads: number },
  ) => Promise<void>
  /** Makes the weights the base with these changes and no others, for the sessions' next run. */
  readonly merge: (changes: readonly LowRankChange[]) => Promise<void>
  /**
   * Uploads the factors of another set, on a thread of its own: runs continue, and merges do not
   * change it.
   */
  readonly stage: (changes: readonly LowRankChange[]) => Promise<void>
  /**
   * Like `merge`, of the staged factors; the active ones become the staged ones, so that another
   * swap reverts it. Throws while a `stage` is running.
   */
  readonly swap: () => Promise<void>
  /** Like `merge`, of the active factors with other scales [rank], one array for each change. */
  readonly rescale: (scales: readonly Float32Array[]) => Promise<void>
  /** Makes or frees the copy of the base on the device; sessions may not run meanwhile. */
  readonly keepBase: () => Promise<void>
  readonly dropBase: () => Promise<void>
  /** Of the weights and their base, without the factors of changes. */
  readonly bytes: () => number
  /** Sessions keep the weights until they are released themselves. */
  readonly release: () => Promise<void>
}

export type NativeSessionOptions = {
  /** Threads of an operator on the CPU; 0 lets ONNX Runtime decide. */
  readonly threads: number
  readonly optimization: 'disabled' | 'basic' | 'all'
  /** ONNX Runtime's session configuration entries. */
  readonly config?: Readonly<Record<string, string>>
  /** Options of the CUDA provider, without the GPU's number, which the device has. */
  readonly cuda?: Readonly<Record<string, string>>
  /** Of two weights with one name the later is used. */
  readonly weights?: readonly WeightSet[]
}

export type NativeSession = {
  /** Rejects with ONNX Runtime's text. */
  readonly load: (model: Uint8Array, options: NativeSessionOptions) => Promise<void>
  /** Outputs that are null are returned; device tensors are written in place. */
  readonly run: (
    inputs: Readonly<Record<string, HostTensorView | DeviceTensor>>,
    outputs: Readonly<Record<string, DeviceTensor | null>>,
    config?: Readonly<Record<string, string>>,
  ) => Promise<Record<string, HostTensor>>
  /** Ends waiting and running runs; their promises reject. */
  readonly terminate: () => void
  /** After the runs that were started before. */
  readonly release: () => Promise<void>
}

const folder = new URL('../../../../../native/build/', import.meta.url)

/** The path of the addon when it has been built. */
export const addonPath = fileURLToPath(new URL('fluxd_native.node', folder))

/** The path of the CUDA kernels when they have been built. */
export const cudaLibrary = fileURLToPath(new URL('libfluxd_cuda.so', folder))

/** Whether the addon has been built. */
export const isAddonBuilt = () => existsSync(addonPath)

/**
 * The addon over the ONNX Runtime at `library`. Throws `engine_failed`, with the command to run,
 * where it has not been built or does not fit this machine.
 */
export function loadAddon(library: string): Addon {
  if (!isAddonBuilt()) throw missingAddon(`${addonPath} is not there`)
  try {
    const addon = createRequire(import.meta.url)(addonPath) as Addon
    addon.open(library)
    return addon
  } catch (cause) {
    throw missingAddon(`${addonPath} cannot be loaded (${String(cause)})`, cause)
  }
}

const missingAddon = (reason: string, cause?: unknown) =>
  new FluxdError(
    'engine_failed',
    `Expected the native addon, but ${reason}; build it with: npm run build:native`,
    { cause },
  )
