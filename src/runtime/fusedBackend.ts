/** Dialect `fused` in sessions of the native addon, over weights that lie on its device. */
import { FluxdError } from '../errors.js'
import type { Addon, NativeDevice } from '../native/addon.js'
import { type Backend, copiedBytes, forEachModel, type Model } from './backend.js'
import { createCapturing } from './cudaGraphs.js'
import { type FusedOptions, fusedOps } from './fused.js'
import { createExecutor, createNativeSession, type LoadedSession } from './nativeSession.js'
import { modelConfig } from './onnx.js'
import { pictureOps } from './pictures.js'
import { loadFailure, runFailure, type SessionOptions } from './session.js'
import { createWeightStock, type StockedWeights, type WeightUse } from './weightStock.js'

export type FusedSettings = Omit<FusedOptions, 'precision'> & {
  readonly addon: Addon
  readonly device: NativeDevice
  /** How many sets of shapes a repeated model's runs are captured for as CUDA graphs; 0 if absent. */
  readonly captures?: number
}

/**
 * A backend over one device. Sessions take weights that the device has already from where they are:
 * a network with LoRAs adds to its base only the weights that they change.
 */
export function createFusedBackend(settings: FusedSettings): Backend {
  const { addon, device, dtype, attention, captures = 0 } = settings
  const stock = createWeightStock(addon, device)
  // Nobody else can attend on the CPU.
  const isOnGpu = attention !== 'float32'
  const failure = (cause: unknown) =>
    isOnGpu && !(cause instanceof FluxdError) ? runFailure(cause) : cause

  async function load(
    { graph, taps }: Model,
    { threads }: SessionOptions,
    weights: StockedWeights,
    cuda: Readonly<Record<string, string>>,
  ): Promise<LoadedSession> {
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
    return { session, release: () => session.release().then(drop) }
  }

  async function open(model: Model, options: SessionOptions, weights: StockedWeights) {
    const { graph, taps, isRepeated } = model
    const loaded = await load(model, options, weights, cuda)
    const ordinary = createExecutor(loaded, [...graph.outputs(), ...(taps ?? [])])
    // The weights are there as long as the first session is.
    const capturing = () => load(model, options, weights, { ...cuda, enable_cuda_graph: '1' })
    const executor =
      isRepeated && captures > 0
        ? createCapturing(ordinary, { addon, device, load: capturing, limit: captures })
        : ordinary
    return createNativeSession(executor, { addon, device, failure })
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
