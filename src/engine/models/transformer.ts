/**
 * The transformer as two sessions: one that computes what an image's steps have in common, one that
 * evaluates a step.
 */

import { type FloatTensor, floatTensor } from '../../safetensors/tensor.js'
import type { Component } from '../checkpoint/checkpoint.js'
import { addConditioning } from '../flux/conditioning.js'
import { modulationSize } from '../flux/modulation.js'
import type { FluxParams } from '../flux/params.js'
import { sinusoidDim } from '../flux/params.js'
import { addTransformer } from '../flux/transformer.js'
import { type Adaptable, type Backend, portableBackend } from '../runtime/backends/backend.js'
import type { BoundInputs, Session, SessionOptions } from '../runtime/backends/ort/session.js'
import { createGraph } from '../runtime/onnx/graph.js'
import type { Precision } from '../runtime/ops/ops.js'
import { refuseUnused } from '../runtime/weights/weights.js'

/** A prompt as the text encoders' outputs. */
export type PromptEmbedding = {
  /** T5's hidden states, [L, txtDim]. */
  readonly hidden: FloatTensor
  /** CLIP's pooled vector, [1, vecDim]. */
  readonly pooled: FloatTensor
}

export type ConditioningInput = {
  readonly prompt: PromptEmbedding
  /** The sinusoid of each step's noise level. */
  readonly timesteps: readonly Float32Array[]
  /** The sinusoid of the guidance; schnell ignores it. */
  readonly guidance: Float32Array
}

/** What an image's steps have in common. */
export type Conditioning = {
  /** The text stream at the transformer's entry, [L, D]. */
  readonly txt: FloatTensor
  /** One row of modulation per step. */
  readonly modulation: readonly FloatTensor[]
}

export type RopeTensors = { readonly cos: FloatTensor; readonly sin: FloatTensor }

/**
 * The velocity (noise − image) of packed latents at the level of step `step`. `signal` ends it
 * early where the backend can do that.
 */
export type Predict = (
  latents: Float32Array,
  step: number,
  signal?: AbortSignal,
) => Promise<Float32Array>

export type BoundSteps = {
  /** The velocity (noise − image) at `latents` [N, 64], for step `step` of the conditioning. */
  readonly predict: Predict
  readonly release: () => Promise<void>
}

export type Transformer = {
  readonly params: FluxParams
  readonly condition: (input: ConditioningInput, signal?: AbortSignal) => Promise<Conditioning>
  /** Copies what the steps have in common to their device, until it is released. */
  readonly bindSteps: (conditioning: Conditioning, rope: RopeTensors) => Promise<BoundSteps>
  readonly sessions: readonly Session[]
  /** Undefined where LoRAs cannot be merged into its weights in place. */
  readonly adaptable: Adaptable | undefined
}

/** The model bytes of both graphs; throws when the checkpoint does not fit its params. */
export function buildTransformerGraphs(
  { params, weights, source }: Component<FluxParams>,
  precision: Precision = 'bf16',
  backend: Backend = portableBackend,
) {
  const conditioning = createGraph('conditioning')
  addConditioning(backend.ops(conditioning), params, weights)
  const step = createGraph('step')
  addTransformer(backend.ops(step, precision), params, weights)
  refuseUnused(source, weights)
  return { conditioning, step }
}

/** Loads a transformer's sessions; `fixed` ones are never changed. */
export async function loadTransformer(
  component: Component<FluxParams>,
  options: SessionOptions,
  precision: Precision = 'bf16',
  backend: Backend = portableBackend,
  use: 'adaptable' | 'fixed' = 'adaptable',
): Promise<Transformer> {
  const { params } = component
  const graphs = buildTransformerGraphs(component, precision, backend)
  const models = {
    conditioning: { graph: graphs.conditioning },
    step: { graph: graphs.step, isRepeated: true },
  }
  const opened =
    use === 'adaptable' && backend.createAdaptable
      ? await backend.createAdaptable(models, options)
      : { sessions: await backend.createSessions(models, options), adaptable: undefined }
  const { conditioning, step } = opened.sessions
  return {
    params,
    condition: createCondition(conditioning, params),
    bindSteps: createBindSteps(step, params),
    sessions: [conditioning, step],
    adaptable: opened.adaptable,
  }
}

/** Runs the conditioning graph. */
function createCondition(session: Session, params: FluxParams): Transformer['condition'] {
  const size = modulationSize(params)
  return async ({ prompt, timesteps, guidance }, signal) => {
    const inputs = {
      hidden: prompt.hidden,
      pooled: prompt.pooled,
      timesteps: stackRows(timesteps),
      ...(params.guidance && { guidance: floatTensor(guidance, [1, sinusoidDim]) }),
    }
    const result = await session.run(inputs, { signal })
    const table = (result['modulation'] as FloatTensor).data
    const modulation = timesteps.map((_, i) =>
      floatTensor(table.subarray(i * size, (i + 1) * size), [size]),
    )
    return { txt: result['txt'] as FloatTensor, modulation }
  }
}

/** Binds what all steps share, then each step's modulation; a failure releases what was bound. */
function createBindSteps(session: Session, params: FluxParams): Transformer['bindSteps'] {
  return async ({ txt, modulation }, { cos, sin }) => {
    const common = await session.bindInputs({ txt, cos, sin })
    const steps: BoundInputs[] = []
    async function release() {
      for (const each of [...steps, common]) await each.release()
    }
    try {
      for (const row of modulation) steps.push(await common.bindInputs({ modulation: row }))
    } catch (error) {
      await release()
      throw error
    }
    async function predict(latents: Float32Array, i: number, signal?: AbortSignal) {
      const img = floatTensor(latents, [latents.length / params.inChannels, params.inChannels])
      const result = await steps[i]!.run({ img }, { signal })
      return (result['velocity'] as FloatTensor).data
    }
    return { predict, release }
  }
}

function stackRows(rows: readonly Float32Array[]): FloatTensor {
  const data = new Float32Array(rows.length * sinusoidDim)
  rows.forEach((row, i) => {
    data.set(row, i * sinusoidDim)
  })
  return floatTensor(data, [rows.length, sinusoidDim])
}
