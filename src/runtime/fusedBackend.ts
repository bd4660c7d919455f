/** Dialect `fused` in sessions of the native addon, over weights that lie on its device. */
import type {
  Addon,
  HostTensor,
  NativeDevice,
  NativeDType,
  NativeSession,
} from '../native/addon.js'
import { type Backend, copiedBytes, forEachModel, type Model } from './backend.js'
import { type FusedOptions, fusedOps } from './fused.js'
import { modelConfig } from './onnx.js'
import { pictureOps } from './pictures.js'
import { loadFailure, runFailure, type Session, type SessionOptions } from './session.js'
import type { Tensor } from './tensor.js'
import { createWeightStock, type StockedWeights, type WeightUse } from './weightStock.js'

export type FusedSettings = Omit<FusedOptions, 'precision'> & {
  readonly addon: Addon
  readonly device: NativeDevice
}

/**
 * A backend over one device. Sessions take weights that the device has already from where they are:
 * a network with LoRAs adds to its base only the weights that they change.
 */
export function createFusedBackend({ addon, device, dtype, attention }: FusedSettings): Backend {
  const stock = createWeightStock(addon, device)
  // Nobody else can attend on the CPU.
  const isOnGpu = attention !== 'float32'

  async function open(
    { graph, taps }: Model,
    { threads }: SessionOptions,
    weights: StockedWeights,
  ) {
    const session = new addon.Session(device)
    const { sets, drop } = weights.share()
    try {
      await session.load(graph.encode(taps), {
        threads,
        optimization: 'all',
        config: modelConfig,
        cuda,
        weights: sets,
      })
    } catch (error) {
      await drop()
      throw isOnGpu ? loadFailure(error) : error
    }
    const own = toSession(session, [...graph.outputs(), ...(taps ?? [])], drop)
    return isOnGpu ? withGpuFailures(own) : own
  }

  async function create<Name extends string>(
    models: Readonly<Record<Name, Model>>,
    options: SessionOptions,
    use: WeightUse,
  ) {
    const graphs = Object.values<Model>(models).map(({ graph }) => graph)
    const weights = await stock.take(
      graphs.map((graph) => graph.sharedWeights()),
      use,
    )
    try {
      const sessions = await forEachModel(models, (model) => open(model, options, weights))
      const { adapt, stage, base } = weights
      return { sessions, adapt, stage, base }
    } finally {
      await weights.drop()
    }
  }

  return {
    weightBytes: copiedBytes,
    ops: (graph, precision = 'bf16') => fusedOps(graph, { dtype, precision, attention }),
    pictureOps: (graph, dtype) => pictureOps(graph, { dtype, groupNorm: 'fused' }),
    createSessions: async (models, options) => (await create(models, options, 'fixed')).sessions,
    createAdaptable: (models, options) => create(models, options, 'adaptable'),
  }
}

// Exhaustive search would try every algorithm at each new picture size. `prefer_nhwc` stays off: our
// norms are NCHW, so the provider would transpose before and after every convolution (test/cuda).
const cuda = { cudnn_conv_algo_search: 'HEURISTIC', arena_extend_strategy: 'kSameAsRequested' }

function toSession(
  session: NativeSession,
  outputs: readonly string[],
  dropWeights: () => Promise<void>,
): Session {
  const wanted = Object.fromEntries(outputs.map((name) => [name, null]))
  let busyMs = 0
  return {
    async run(inputs) {
      const operands = Object.entries(inputs).map(([name, value]) => [name, toNative(value)])
      const startedAt = performance.now()
      const results = await session.run(Object.fromEntries(operands), wanted)
      busyMs += performance.now() - startedAt
      return Object.fromEntries(
        Object.entries(results).map(([name, value]) => [name, fromNative(name, value)]),
      )
    },
    busySeconds: () => busyMs / 1000,
    async release() {
      await session.release()
      await dropWeights()
    },
  }
}

const withGpuFailures = (session: Session): Session => ({
  ...session,
  run: (inputs) =>
    session.run(inputs).catch((cause) => {
      throw runFailure(cause)
    }),
})

const nativeDTypes = {
  float32: 'F32',
  int32: 'I32',
  uint8: 'U8',
} as const satisfies Record<Tensor['dtype'], NativeDType>

const toNative = ({ dtype, dims, data }: Tensor) => ({ dtype: nativeDTypes[dtype], dims, data })

function fromNative(name: string, { dtype, dims, data }: HostTensor): Tensor {
  if (dtype === 'F32') return { dtype: 'float32', dims, data: new Float32Array(data) }
  if (dtype === 'U8') return { dtype: 'uint8', dims, data: new Uint8Array(data) }
  throw new TypeError(`Expected output ${name} to be F32 or U8 but it is ${dtype}`)
}
