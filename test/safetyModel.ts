/** The tiny random-weight safety checker of test/fixtures/safety, its pictures, and damaged copies. */
import { cpSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import sharp from 'sharp'
import { openSafetyModel } from '../src/engine/checkpoint/safety.js'
import { processImage } from '../src/engine/images/visionPreprocess.js'
import { buildSafetyGraphs } from '../src/engine/models/safetyChecker.js'
import { createSession } from '../src/engine/runtime/backends/ort/session.js'
import type { PixelSize } from '../src/plan/plan.js'
import { openSafetensors } from '../src/safetensors/read.js'
import { floatTensor } from '../src/safetensors/tensor.js'
import { fixturePath, readFixtureJson, readSafetensors } from './goldens.js'
import { temporaryFolder } from './weightFiles.js'

export const safetyFolder = fixturePath('safety')
export const conceptFile = 'safety_checker/model.safetensors'
export const classifierFile = 'nsfw_classifier/model.safetensors'

export type SafetyPicture = {
  readonly role: string
  readonly size: PixelSize
  readonly rgb: Uint8Array
  /** What the first stage says, and the second when it is asked. */
  readonly flagged: boolean
  readonly label: string
}

type PictureRecord = Omit<SafetyPicture, 'size' | 'rgb'> & PixelSize

const cases: {
  readonly pictures: readonly PictureRecord[]
  readonly rounding: readonly (readonly [number, number])[]
} = readFixtureJson('safety/cases.json')
const tensors = readSafetensors(fixturePath('safety/cases.safetensors'))

export const safetyPictures: readonly SafetyPicture[] = cases.pictures.map(
  ({ width, height, ...picture }, i) => ({
    ...picture,
    size: { width, height },
    rgb: tensors[`picture_${i}`]!.data as Uint8Array,
  }),
)

/** float32 values and what numpy rounds them to. */
export const numpyRounding = cases.rounding

/** What the reference got for picture `index`: one row of a batch. */
export function goldenRow(name: string, index: number): Float32Array {
  const data = tensors[name]!.data as Float32Array
  const length = data.length / safetyPictures.length
  return data.subarray(index * length, (index + 1) * length)
}

/** A copy that may be damaged. */
export function copySafetyModel(): string {
  const folder = join(temporaryFolder(), 'safety')
  cpSync(safetyFolder, folder, { recursive: true })
  return folder
}

/** Overwrites a float32 tensor of a copy, value by value. */
export function editTensor(
  path: string,
  name: string,
  change: (value: number, index: number) => number,
) {
  const { dtype, offset, byteLength } = openSafetensors(path).tensors.get(name)!
  if (dtype !== 'F32') throw new TypeError(`Expected ${name} to be F32 but it is ${dtype}`)
  const file = readFileSync(path)
  for (let at = offset, i = 0; at < offset + byteLength; at += 4, i++)
    file.writeFloatLE(change(file.readFloatLE(at), i), at)
  writeFileSync(path, file)
}

/** The threshold of each concept. */
export type Threshold = (concept: number) => number

// A cosine is always above −2 and never above 2.
export const always: Threshold = () => -2
const never = 2

/** What outweighs the second stage's own logits: normal, nsfw. */
export const sayNormal = [100, -100] as const
export const sayNsfw = [-100, 100] as const
export const breakDown = [Number.NaN, Number.NaN] as const

/** A safety checker that flags by `threshold` and whose second stage has these biases. */
export function makeChecker(threshold: Threshold, bias: readonly [number, number]): string {
  const folder = copySafetyModel()
  editTensor(join(folder, conceptFile), 'concept_embeds_weights', (_, i) => threshold(i))
  editTensor(join(folder, conceptFile), 'special_care_embeds_weights', () => never)
  editTensor(join(folder, classifierFile), 'classifier.bias', (_, i) => bias[i]!)
  return folder
}

/**
 * Flags the second of three pictures and no other: between its cosine and the others' with the
 * concept that tells them apart best.
 */
export async function separateSecond(
  pngs: readonly Uint8Array[],
  size: PixelSize,
): Promise<Threshold> {
  const [first, second, third] = await Promise.all(pngs.map((png) => measureCosines(png, size)))
  const gaps = second!.map((cosine, i) => cosine - Math.max(first![i]!, third![i]!))
  const widest = gaps.indexOf(Math.max(...gaps))
  // A score is rounded to 0.001. Seen: gaps of 0.11 and 0.16.
  if (!(gaps[widest]! > 0.005)) throw new Error(`Expected a wider gap than ${gaps[widest]}`)
  return (concept) => (concept === widest ? second![widest]! - gaps[widest]! / 2 : never)
}

async function measureCosines(png: Uint8Array, size: PixelSize): Promise<number[]> {
  const model = openSafetyModel(safetyFolder)
  const { params, processor } = model.concepts
  const graph = buildSafetyGraphs(model).concepts.encode(['concepts_cosines'])
  const session = await createSession(graph, { threads: 1, widenWeights: 'load' })
  const rgb = await sharp(png).removeAlpha().raw().toBuffer()
  const pixels = processImage(rgb, size, params.imageSide, processor)
  const dims = [1, 3, params.imageSide, params.imageSide]
  const outputs = await session.run({ pixels: floatTensor(pixels, dims) })
  await session.release()
  return Array.from(outputs['concepts_cosines']!.data)
}
