/** Dialect `fused` in sessions of the native addon, over weights that lie on its device. */

import { modelConfig } from '../../onnx/proto.js'
import { type FusedOptions, fusedOps } from '../../ops/fused.js'
import { pictureOps } from '../../ops/vae.js'
import { type Adaptable, type Backend, copiedBytes, forEachModel, type Model } from '../backend.js'
import { gpuFailure, loadFailure, runFailure } from '../cudaErrors.js'
import type { SessionOptions } from '../ort/session.js'
import type { Addon, NativeDevice } from './addon.js'
import { createCapturing } from './cudaGraphs.js'
import { createWeightStock, type StockedWeights, type WeightUse } from './deviceWeights.js'
import { createExecutor, createNativeSession, type LoadedSession } from './session.js'

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
  const failure = (cause: unknown) => (isOnGpu ? runFailure(cause) : cause)

  const onGpu = <T>(what: string, work: () => Promise<T>): Promise<T> =>
    isOnGpu ? work().catch((cause) => Promise.reject(gpuFailure(what, cause))) : work()

  /** The weights' changes, with failures as they concern the caller. */
  const withWords = ({ adapt, stage, base }: Adaptable): Adaptable => ({
    adapt: (changes) => onGpu('the GPU to merge LoRAs into the weights', () => adapt(changes)),
    stage: (changes) => onGpu('the GPU to take the LoRAs that come next', () => stage(changes)),
    base: { ...base, keep: () => onGpu('the GPU to take a copy of the weights', base.keep) },
  })

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
    const weights = await onGpu('the GPU to take the weights', () =>
      stock.take(
        graphs.map((graph) => graph.sharedWeights()),
        use,
      ),
    )
    try {
      const sessions = await forEachModel(models, (model) => open(model, options, weights))
      return { sessions, ...withWords(weights) }
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
