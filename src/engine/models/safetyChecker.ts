/**
 * The safety checker, in two stages: CLIP compares every image with concepts it must not show, and
 * an image that it flags is kept only if a classifier calls it normal.
 * Source: diffusers, pipelines/stable_diffusion/safety_checker.py; cog-flux, predict.py.
 */

import type { PixelSize } from '../../plan/plan.js'
import { floatTensor, type Tensor } from '../../safetensors/tensor.js'
import {
  openSafetyModel,
  type SafetyModel,
  safeLabel,
  type VisionModel,
} from '../checkpoint/safety.js'
import type { VisionParams } from '../flux/params.js'
import { addClassifier, addConceptScores } from '../flux/vision.js'
import { processImage } from '../images/visionPreprocess.js'
import { type Backend, portableBackend } from '../runtime/backends/backend.js'
import type { Session, SessionOptions } from '../runtime/backends/ort/session.js'
import { createGraph } from '../runtime/onnx/graph.js'
import { portableOps } from '../runtime/ops/portable.js'
import { refuseUnused } from '../runtime/weights/weights.js'
import type { ManagedModel, ModelMemory } from './memory.js'

export type SafetyVerdict =
  | { readonly kind: 'safe' }
  | { readonly kind: 'unsafe' }
  /** The second stage failed: the image has not been found safe. */
  | { readonly kind: 'unknown'; readonly reason: string }

export type SafetyChecker = {
  /** Judges an image of H·W·3 bytes. Throws only when the first stage fails. */
  readonly check: (rgb: Uint8Array, size: PixelSize) => Promise<SafetyVerdict>
  readonly sessions: readonly Session[]
}

// Left in some files by other tools; no network uses them.
const conceptLeftovers = /position_ids$/
const classifierLeftovers = /^vit\.pooler\./

/** Both stages, in float32; throws when the files do not fit their configs. */
export function buildSafetyGraphs({ concepts, classifier }: SafetyModel) {
  const conceptGraph = createGraph('concepts')
  addConceptScores(portableOps(conceptGraph), concepts.params, concepts.weights)
  refuseUnused(concepts.source, concepts.weights, conceptLeftovers)
  const classifierGraph = createGraph('classifier')
  addClassifier(portableOps(classifierGraph), classifier.params, classifier.weights)
  refuseUnused(classifier.source, classifier.weights, classifierLeftovers)
  return { concepts: conceptGraph, classifier: classifierGraph }
}

/**
 * The safety checker at `folder`, to be acquired; nothing is loaded.
 * Throws `checkpoint_invalid` when it is damaged or not a safety checker.
 */
export function openSafetyChecker(
  folder: string,
  threads: number,
  backend: Backend,
  memory: ModelMemory,
): ManagedModel<SafetyChecker> {
  const graphs = buildSafetyGraphs(openSafetyModel(folder))
  return memory.manage({
    name: 'safety checker',
    bytes: backend.weightBytes(Object.values(graphs), sessionOptions(threads)),
    load: () => loadSafetyChecker(folder, threads, backend),
  })
}

const sessionOptions = (threads: number): SessionOptions => ({ threads, widenWeights: 'load' })

/** Loads both networks of the safety checker at `folder`; throws as `openSafetyChecker`. */
export async function loadSafetyChecker(
  folder: string,
  threads: number,
  backend: Backend = portableBackend,
): Promise<SafetyChecker> {
  const model = openSafetyModel(folder)
  const graphs = buildSafetyGraphs(model)
  const sessionsOf = await backend.createSessions(
    { concepts: { graph: graphs.concepts }, classifier: { graph: graphs.classifier } },
    sessionOptions(threads),
  )
  const concepts = createVision(model.concepts, sessionsOf.concepts)
  const classifier = createVision(model.classifier, sessionsOf.classifier)
  const sessions = [concepts.session, classifier.session]

  async function classify(rgb: Uint8Array, size: PixelSize): Promise<SafetyVerdict> {
    try {
      const { logits } = await classifier.run(rgb, size)
      const label = model.classifier.params.labels[indexOfMax(logits!)]
      return { kind: label === safeLabel ? 'safe' : 'unsafe' }
    } catch (error) {
      return { kind: 'unknown', reason: error instanceof Error ? error.message : String(error) }
    }
  }

  return {
    async check(rgb, size) {
      const { concepts: scores, specialCare } = await concepts.run(rgb, size)
      return isFlagged(scores!, specialCare!) ? classify(rgb, size) : { kind: 'safe' }
    },
    sessions,
  }
}

function createVision(model: VisionModel<VisionParams>, session: Session) {
  const { imageSide } = model.params
  return {
    session,
    async run(rgb: Uint8Array, size: PixelSize): Promise<Record<string, ArrayLike<number>>> {
      const pixels = processImage(rgb, size, imageSide, model.processor)
      const dims = [1, 3, imageSide, imageSide]
      const outputs = await session.run({ pixels: floatTensor(pixels, dims) })
      return Object.fromEntries(
        Object.entries(outputs).map(([name, output]) => [name, expectNumbers(name, output)]),
      )
    },
  }
}

/** A comparison with NaN is false, and would let every image pass. */
function expectNumbers(name: string, { data }: Tensor): ArrayLike<number> {
  const index = data.findIndex((value) => !Number.isFinite(value))
  if (index >= 0)
    throw new RangeError(
      `Expected ${name} of the safety checker to be finite but got ${data[index]}`,
    )
  return data
}

/**
 * Whether an image with these scores (cosine − threshold, float32) shows one of the concepts. A hit
 * among the special-care concepts raises every score after it by 0.01.
 */
export function isFlagged(concepts: ArrayLike<number>, specialCare: ArrayLike<number>): boolean {
  let adjustment = 0
  const isHit = (score: number) => roundScore(Math.fround(score + adjustment)) > 0
  for (const score of Array.from(specialCare)) if (isHit(score)) adjustment = Math.fround(0.01)
  return Array.from(concepts).some(isHit)
}

/** A float32 to three decimals as numpy rounds it: halves to even, in float32. */
export function roundScore(score: number): number {
  const thousandths = Math.fround(score * 1000)
  const floor = Math.floor(thousandths)
  const isHalf = thousandths - floor === 0.5
  const rounded = isHalf ? floor + (Math.abs(floor) % 2) : Math.round(thousandths)
  return Math.fround(rounded / 1000)
}

function indexOfMax(values: ArrayLike<number>): number {
  let best = 0
  for (let i = 1; i < values.length; i++) if (values[i]! > values[best]!) best = i
  return best
}
