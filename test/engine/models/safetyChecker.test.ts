/** The two stages over whole images, and folders that are not a safety checker. */
import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openSafetyModel } from '../../../src/engine/checkpoint/safety.js'
import { processImage } from '../../../src/engine/images/visionPreprocess.js'
import {
  buildSafetyGraphs,
  isFlagged,
  loadSafetyChecker,
  roundScore,
  type SafetyChecker,
} from '../../../src/engine/models/safetyChecker.js'
import { expectClose } from '../../goldens.js'
import {
  classifierFile,
  conceptFile,
  copySafetyModel,
  editTensor,
  goldenRow,
  numpyRounding,
  safetyFolder,
  safetyPictures,
} from '../../safetyModel.js'

describe('an image processor', () => {
  const { concepts, classifier } = openSafetyModel(safetyFolder)

  test.each([...safetyPictures.entries()])(
    'makes the reference’s pixels of image %i, to the last bit',
    (index, { rgb, size }) => {
      for (const [{ params, processor }, golden] of [
        [concepts, 'clip_pixels'],
        [classifier, 'vit_pixels'],
      ] as const)
        expectClose(
          processImage(rgb, size, params.imageSide, processor),
          goldenRow(golden, index),
          0,
        )
    },
  )
})

describe('the decision', () => {
  test.each(numpyRounding)('%f is rounded to %f, as numpy does it', (value, rounded) => {
    expect(roundScore(value) + 0).toBe(rounded + 0)
  })

  test.each<[string, number[], number[], boolean]>([
    ['no score above 0', [-0.2, -0.009], [-0.1], false],
    ['a score above 0', [-0.2, 0.02], [-0.1], true],
    ['a score that rounds to 0', [0.0004], [-0.1], false],
    ['a score within 0.01 of 0 after a special-care hit', [-0.009], [0.1], true],
    ['the same where the first of two special cares is hit', [-0.009], [0.1, -0.3], true],
    ['a score further from 0 than that', [-0.0101], [0.1], false],
    ['a special-care hit by the adjustment alone changes nothing', [-0.015], [0.1, -0.005], false],
  ])('%s', (_, concepts, specialCare, flagged) => {
    expect(isFlagged(Float32Array.from(concepts), Float32Array.from(specialCare))).toBe(flagged)
  })
})

describe('the checker', () => {
  let checker: SafetyChecker
  beforeAll(async () => {
    checker = await loadSafetyChecker(safetyFolder, 1)
  })
  afterAll(() => release(checker))

  test.each(safetyPictures)('judges as the reference does: $role', async (image) => {
    const { rgb, size, flagged, label } = image
    const [, classifier] = checker.sessions
    const busyBefore = classifier!.busySeconds()
    const kind = flagged && label === 'nsfw' ? 'unsafe' : 'safe'
    expect(await checker.check(rgb, size)).toEqual({ kind })
    // The second stage is asked about flagged images only.
    expect(classifier!.busySeconds() > busyBefore).toBe(flagged)
  })
})

async function release({ sessions }: SafetyChecker) {
  for (const session of sessions) await session.release()
}

async function checkCopy(change: (folder: string) => void, index: number) {
  const folder = copySafetyModel()
  change(folder)
  const checker = await loadSafetyChecker(folder, 1)
  const { rgb, size } = safetyPictures[index]!
  return checker.check(rgb, size).finally(() => release(checker))
}

test('a second stage that breaks down leaves the verdict open', async () => {
  const breakClassifier = (folder: string) =>
    editTensor(join(folder, classifierFile), 'classifier.bias', () => Number.NaN)
  expect(await checkCopy(breakClassifier, 0)).toEqual({
    kind: 'unknown',
    reason: 'Expected logits of the safety checker to be finite but got NaN',
  })
  expect(await checkCopy(breakClassifier, 1)).toEqual({ kind: 'safe' })
})

test('a first stage that breaks down throws instead of letting images pass', async () => {
  const breakConcepts = (folder: string) =>
    editTensor(join(folder, conceptFile), 'concept_embeds_weights', () => Number.NaN)
  await expect(checkCopy(breakConcepts, 1)).rejects.toThrow(
    'Expected concepts of the safety checker to be finite but got NaN',
  )
})

function editJson(path: string, change: Record<string, unknown>) {
  writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, 'utf8')), ...change }))
}

/** Renames a tensor of a copy; both names have the same length. */
function renameTensor(path: string, from: string, to: string) {
  writeFileSync(path, readFileSync(path, 'latin1').replace(`"${from}"`, `"${to}"`), 'latin1')
}

const check = (folder: string) => buildSafetyGraphs(openSafetyModel(folder))

test('a tower under the names of transformers 5 is read too', () => {
  const folder = copySafetyModel()
  const path = join(folder, conceptFile)
  const file = readFileSync(path)
  const headerBytes = Number(file.readBigUInt64LE())
  const header = file.toString('latin1', 8, 8 + headerBytes)
  const renamed = header.replaceAll('vision_model.vision_model.', 'vision_model.')
  const padded = Buffer.from(renamed.padEnd(headerBytes), 'latin1')
  writeFileSync(path, Buffer.concat([file.subarray(0, 8), padded, file.subarray(8 + headerBytes)]))
  expect(() => check(folder)).not.toThrow()
})

describe('a folder that is no sound safety checker is refused:', () => {
  const conceptConfig = 'safety_checker/config.json'
  const conceptProcessor = 'safety_checker/preprocessor_config.json'
  const classifierConfig = 'nsfw_classifier/config.json'
  const classifierProcessor = 'nsfw_classifier/preprocessor_config.json'
  test.each<[string, (folder: string) => void, RegExp]>([
    [
      'nothing there',
      (f) => rmSync(f, { recursive: true }),
      /expected the safety checker's folders .* but safety_checker\/ is missing/,
    ],
    [
      'one stage only',
      (f) => rmSync(join(f, 'nsfw_classifier'), { recursive: true }),
      /but nsfw_classifier\/ is missing/,
    ],
    [
      'a pickle instead of weights',
      (f) => renameSync(join(f, conceptFile), join(f, 'safety_checker/pytorch_model.bin')),
      /safety_checker: expected model\.safetensors but there is only pytorch_model\.bin, a Python pickle, which is never opened/,
    ],
    [
      'no weights',
      (f) => rmSync(join(f, classifierFile)),
      /nsfw_classifier: expected model\.safetensors or its \.index\.json/,
    ],
    [
      'no image processor',
      (f) => rmSync(join(f, classifierProcessor)),
      /preprocessor_config\.json: expected a readable JSON file/,
    ],
    [
      'a classifier of another architecture',
      (f) => editJson(join(f, classifierConfig), { model_type: 'swin' }),
      /nsfw_classifier\/config\.json: .*model_type/s,
    ],
    [
      'a classifier without the label "normal"',
      (f) => editJson(join(f, classifierConfig), { id2label: { 0: 'cat', 1: 'dog' } }),
      /expected id2label to number its labels from 0, one of them "normal", but it is {"0":"cat","1":"dog"}/,
    ],
    [
      'labels with a gap',
      (f) => editJson(join(f, classifierConfig), { id2label: { 0: 'normal', 2: 'nsfw' } }),
      /expected id2label to number its labels from 0/,
    ],
    [
      'more labels than logits',
      (f) => editJson(join(f, classifierConfig), { id2label: { 0: 'normal', 1: 'a', 2: 'b' } }),
      /expected tensor classifier\.weight of shape \[3,24\] but it is \[2,24\]/,
    ],
    [
      'another number of layers than it says',
      (f) => editJson(join(f, classifierConfig), { num_hidden_layers: 1 }),
      /tensors have no place in this model, the first is vit\.encoder\.layer\.1\./,
    ],
    [
      'heads that do not divide the width',
      (f) => editJson(join(f, classifierConfig), { num_attention_heads: 5 }),
      /expected heads of equal size but the config has 5 in a width of 24/,
    ],
    [
      'another projection than it says',
      (f) => editJson(join(f, conceptConfig), { projection_dim: 768 }),
      /expected tensor visual_projection\.weight of shape \[768,24\] but it is \[12,24\]/,
    ],
    [
      'a missing tensor',
      (f) => renameTensor(join(f, conceptFile), 'concept_embeds', 'concept_embedz'),
      /expected tensor concept_embeds of shape \[17,12\] but it is missing/,
    ],
    [
      'an image size that is not the network’s',
      (f) => editJson(join(f, classifierProcessor), { size: { height: 48, width: 48 } }),
      /the network reads images of side 32 but preprocessor_config\.json makes them 48/,
    ],
    [
      'a crop larger than what is left of the image',
      (f) => editJson(join(f, conceptProcessor), { size: 24 }),
      /expected the processor to resize to at least its crop of 28 but it resizes to 24/,
    ],
    [
      'a processor that does not crop',
      (f) => editJson(join(f, conceptProcessor), { do_center_crop: false }),
      /do_center_crop/,
    ],
    [
      'a filter that is not Pillow’s bilinear, bicubic or Lanczos',
      (f) => editJson(join(f, conceptProcessor), { resample: 0 }),
      /resample/,
    ],
  ])('%s', (_, damage, message) => {
    const folder = copySafetyModel()
    damage(folder)
    expect(() => check(folder)).toThrow(
      expect.objectContaining({
        code: 'checkpoint_invalid',
        message: expect.stringMatching(message),
      }),
    )
  })
})
