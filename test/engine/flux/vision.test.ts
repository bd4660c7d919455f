/** The networks of the safety checker against the classes of diffusers and transformers. */
import { expect, test } from 'vitest'
import { openSafetyModel } from '../../../src/engine/checkpoint/safety.js'
import { buildSafetyGraphs } from '../../../src/engine/models/safetyChecker.js'
import { createSession } from '../../../src/engine/runtime/backends/ort/session.js'
import { floatTensor } from '../../../src/safetensors/tensor.js'
import { expectClose, readSafetensors } from '../../goldens.js'
import { conceptFile, goldenRow, safetyFolder, safetyPictures } from '../../safetyModel.js'

const options = { threads: 1, widenWeights: 'load' } as const
const model = openSafetyModel(safetyFolder)
const graphs = buildSafetyGraphs(model)

/** What a graph makes of the reference's own pixels of image `index`. */
async function createRunner(
  graph: 'concepts' | 'classifier',
  debugOutputs: readonly string[] = [],
) {
  const session = await createSession(graphs[graph].encode(debugOutputs), options)
  const side = model[graph].params.imageSide
  const source = graph === 'concepts' ? 'clip_pixels' : 'vit_pixels'
  return (index: number) =>
    session.run({ pixels: floatTensor(goldenRow(source, index).slice(), [1, 3, side, side]) })
}

test('CLIP’s embeddings and cosines agree with StableDiffusionSafetyChecker', async () => {
  const debugOutputs = ['image_embeds', 'concepts_cosines', 'specialCare_cosines']
  const run = await createRunner('concepts', debugOutputs)
  for (const index of safetyPictures.keys()) {
    const outputs = await run(index)
    // Seen: 2.1e-6 of values up to 3.5, and 4.2e-7.
    expectClose(outputs['image_embeds']!.data, goldenRow('image_embeds', index), 1e-5)
    expectClose(outputs['concepts_cosines']!.data, goldenRow('concept_cosines', index), 3e-6)
    const special = goldenRow('special_care_cosines', index)
    expectClose(outputs['specialCare_cosines']!.data, special, 3e-6)
  }
})

test('a score is a cosine less its threshold', async () => {
  const stored = readSafetensors(`${safetyFolder}/${conceptFile}`)
  const run = await createRunner('concepts', ['concepts_cosines', 'specialCare_cosines'])
  const outputs = await run(2)
  for (const [output, name] of [
    ['concepts', 'concept_embeds_weights'],
    ['specialCare', 'special_care_embeds_weights'],
  ] as const) {
    const cosines = Array.from(outputs[`${output}_cosines`]!.data)
    const thresholds = stored[name]!.data
    const wanted = cosines.map((cosine, i) => Math.fround(cosine - thresholds[i]!))
    expect(Array.from(outputs[output]!.data)).toEqual(wanted)
  }
})

test('ViT’s logits agree with ViTForImageClassification', async () => {
  const run = await createRunner('classifier')
  for (const index of safetyPictures.keys()) {
    const { logits } = await run(index)
    // Seen: 7.2e-7.
    expectClose(logits!.data, goldenRow('logits', index), 5e-6)
  }
})
