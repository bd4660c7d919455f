/** Dialect `fused` in sessions of the native addon, over weights that lie on its device. */

import { modelConfig } from '../../onnx/proto.js'
import { type FusedOptions, fusedOps } from '../../ops/fused.js'
import { imageOps } from '../../ops/vae.js'
import { type Adaptable, type Backend, copiedBytes, forEachModel, type Model } from '../backend.js'
import { gpuFailure, loadFailure, runFailure } from '../cudaErrors.js'
import type { Session, SessionOptions } from '../ort/session.js'
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

type CudaOptions = Readonly<Record<string, string>>

// Exhaustive search would try every algorithm at each new image size. `prefer_nhwc` stays off: our
// norms are NCHW, so the provider would transpose before and after every convolution (test/cuda).
const cuda: CudaOptions = {
  cudnn_conv_algo_search: 'HEURISTIC',
  arena_extend_strategy: 'kSameAsRequested',
}

/**
 * A backend over one device. Sessions share the weights that the device has already: a network with
 * merged LoRAs adds to its base only the weights that the LoRAs change.
 */
export function createFusedBackend(settings: FusedSettings): Backend {
  const { addon, device, dtype, attention } = settings
  const deviceWeights = createDeviceWeights(addon, device)
  const onGpu = isOnGpu(settings) ? throwsGpuFailure : throwsAsIs

  async function create<Name extends string>(
    models: Readonly<Record<Name, Model>>,
    options: SessionOptions,
    use: WeightUse,
  ) {
    const groups = Object.values<Model>(models).map(({ graph }) => graph.sharedWeights())
    const weights = await onGpu('the GPU to take the weights', () =>
      deviceWeights.acquire(groups, use),
    )
    try {
      const sessions = await forEachModel(models, (model) =>
        openSession(model, options, weights, settings),
      )
      return { sessions, adaptable: withFailures(weights, onGpu) }
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

// The other attention operators run on a GPU only.
const isOnGpu = ({ attention }: FusedSettings) => attention !== 'float32'

/** Runs `work`; `what` completes "Expected …" in the error where the GPU fails. */
type Guard = <T>(what: string, work: () => Promise<T>) => Promise<T>

const throwsGpuFailure: Guard = (what, work) =>
  work().catch((cause) => Promise.reject(gpuFailure(what, cause)))

const throwsAsIs: Guard = (_, work) => work()

/** The same weights, whose failures are errors that name the GPU. */
const withFailures = ({ active, activate, stage, base }: Adaptable, onGpu: Guard): Adaptable => ({
  active,
  activate: (changes) => onGpu('the GPU to merge LoRAs into the weights', () => activate(changes)),
  stage: (changes) => onGpu('the GPU to take the LoRAs that come next', () => stage(changes)),
  base: { ...base, keep: () => onGpu('the GPU to take a copy of the weights', base.keep) },
})

/** A session of the model, whose runs become CUDA graphs where the settings say so. */
async function openSession(
  model: Model,
  options: SessionOptions,
  weights: WeightLease,
  settings: FusedSettings,
): Promise<Session> {
  const { addon, device, captures = 0, onWarning = () => {} } = settings
  const { graph, debugOutputs = [], isRepeated } = model
  const failure = (cause: unknown) => (isOnGpu(settings) ? runFailure(cause) : cause)
  const load = (own: CudaOptions) => loadSession(model, options, weights, own, settings)
  const ordinary = createExecutor(await load(cuda), [...graph.outputs(), ...debugOutputs])
  if (!isRepeated || captures === 0)
    return createNativeSession(ordinary, { addon, device, failure })
  const capturing = createCapturing(ordinary, {
    addon,
    device,
    // The weights are leased as long as the first session is.
    load: () => load({ ...cuda, enable_cuda_graph: '1' }),
    limit: captures,
    onWarning,
  })
  return createNativeSession(capturing, { addon, device, failure })
}

async function loadSession(
  { graph, debugOutputs }: Model,
  { threads }: SessionOptions,
  weights: WeightLease,
  cuda: CudaOptions,
  settings: FusedSettings,
): Promise<LoadedSession> {
  const session = new settings.addon.Session(settings.device)
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
    throw isOnGpu(settings) ? loadFailure(error) : error
  }
  return { session, release: () => session.release().then(release) }
}
