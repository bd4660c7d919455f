/** Dialect `fused` in sessions of the native addon, over weights that lie on its device. */

import { modelConfig } from '../../onnx/proto.js'
import { type FusedOptions, fusedOps } from '../../ops/fused.js'
import { imageOps } from '../../ops/vae.js'
import { type Adaptable, type Backend, copiedBytes, forEachModel, type Model } from '../backend.js'
import { gpuFailure, loadFailure, runFailure } from '../cudaErrors.js'
import type { SessionOptions } from '../ort/session.js'
import type { Addon, NativeDevice } from './addon.js'
import { createCapturing } from './cudaGraphs.js'
import { createDeviceWeights, type WeightLease, type WeightUse } from './deviceWeights.js'
import { createExecutor, createNativeSession, type LoadedSession } from './session.js'

export type FusedSettings = Omit<FusedOptions, 'precision'> & {
  readonly addon: Addon
  readonly device: NativeDevice
  /** For how many sets of shapes runs of a repeated model become CUDA graphs; 0 by default. */
  readonly captures?: number
  /** Gets a sentence when runs could not be captured. */
  readonly onWarning?: (message: string) => void
}

/**
 * A backend over one device. Sessions share the weights that the device has already: a network with
 * merged LoRAs adds to its base only the weights that the LoRAs change.
 */
export function createFusedBackend(settings: FusedSettings): Backend {
  const { addon, device, dtype, attention, captures = 0, onWarning = () => {} } = settings
  const deviceWeights = createDeviceWeights(addon, device)
  // The other attention kernels run on a GPU only.
  const isOnGpu = attention !== 'float32'
  const failure = (cause: unknown) => (isOnGpu ? runFailure(cause) : cause)

  const onGpu = <T>(what: string, work: () => Promise<T>): Promise<T> =>
    isOnGpu ? work().catch((cause) => Promise.reject(gpuFailure(what, cause))) : work()

  /** The same weights, whose failures are errors that name the GPU. */
  const withFailures = ({ active, activate, stage, base }: Adaptable): Adaptable => ({
    active,
    activate: (changes) =>
      onGpu('the GPU to merge LoRAs into the weights', () => activate(changes)),
    stage: (changes) => onGpu('the GPU to take the LoRAs that come next', () => stage(changes)),
    base: { ...base, keep: () => onGpu('the GPU to take a copy of the weights', base.keep) },
  })

  async function load(
    { graph, debugOutputs }: Model,
    { threads }: SessionOptions,
    weights: WeightLease,
    cuda: Readonly<Record<string, string>>,
  ): Promise<LoadedSession> {
    const session = new addon.Session(device)
    const { sets, release } = weights.retain()
    try {
      await session.load(graph.encode(debugOutputs), {
        threads,
        optimization: 'all',
        config: modelConfig,
        cuda,
        weights: sets,
      })
    } catch (error) {
      await release()
      throw isOnGpu ? loadFailure(error) : error
    }
    return { session, release: () => session.release().then(release) }
  }

  async function open(model: Model, options: SessionOptions, weights: WeightLease) {
    const { graph, debugOutputs, isRepeated } = model
    const loaded = await load(model, options, weights, cuda)
    const ordinary = createExecutor(loaded, [...graph.outputs(), ...(debugOutputs ?? [])])
    // The weights are there as long as the first session is.
    const capturing = () => load(model, options, weights, { ...cuda, enable_cuda_graph: '1' })
    const executor =
      isRepeated && captures > 0
        ? createCapturing(ordinary, { addon, device, load: capturing, limit: captures, onWarning })
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
      deviceWeights.acquire(
        graphs.map((graph) => graph.sharedWeights()),
        use,
      ),
    )
    try {
      const sessions = await forEachModel(models, (model) => open(model, options, weights))
      return { sessions, adaptable: withFailures(weights) }
    } finally {
      await weights.release()
    }
  }

  return {
    weightBytes: copiedBytes,
    ops: (graph, precision = 'bf16') => fusedOps(graph, { dtype, precision, attention }),
    imageOps: (graph, dtype) => imageOps(graph, { dtype, groupNorm: 'fused' }),
    createSessions: async (models, options) => (await create(models, options, 'fixed')).sessions,
    createAdaptable: (models, options) => create(models, options, 'adaptable'),
  }
}

// Exhaustive search would try every algorithm at each new image size. `prefer_nhwc` stays off: our
// norms are NCHW, so the provider would transpose before and after every convolution (test/cuda).
const cuda = { cudnn_conv_algo_search: 'HEURISTIC', arena_extend_strategy: 'kSameAsRequested' }
