/**
 * Long data URIs of an input, as files: each is decoded once, when it comes, and is neither in the
 * store nor in memory while its prediction waits. Their MIME types are told from their bytes.
 */
import { fileFields } from '../../contract/input.js'
import type { Prediction } from '../../contract/prediction.js'
import { FluxdError } from '../../errors.js'
import type { Files } from '../../files/files.js'
import { inputFileUri } from '../../files/localFiles.js'
import { splitDataUri } from '../../net/dataUri.js'
import type { PredictionRequest } from '../../predictions/request.js'

// What is shorter is as quickly read from the store.
const shortest = 64 * 1024

// A data URI that is not plain base64 stays in the input as text, which every reply repeats.
const longestText = 8 * 1024 * 1024

/** The input cut short, and its files. */
export type OffloadedRequest = Pick<PredictionRequest, 'input' | 'inputEcho'> &
  Pick<Prediction, 'inputFiles'>

/**
 * Writes what is long in `request` to files of prediction `predictionId`. Throws `storage_full`.
 */
export async function offloadLargeInputs(
  request: Pick<PredictionRequest, 'input' | 'inputEcho'>,
  predictionId: string,
  files: Pick<Files, 'add' | 'remove'>,
): Promise<OffloadedRequest> {
  let offloaded: OffloadedRequest = { input: request.input, inputEcho: request.inputEcho }
  try {
    for (const field of fileFields) {
      const { input, inputEcho, inputFiles } = offloaded
      const uri = input[field]
      // What a model brings is not echoed.
      if (uri === undefined || uri.length < shortest || inputEcho[field] !== uri) continue
      const parts = splitDataUri(uri)
      if (!parts) {
        if (uri.length > longestText) throw tooLong(field)
        continue
      }
      const { head, bytes } = parts
      const { id: fileId } = await files.add({
        kind: 'input',
        contentType: 'application/octet-stream',
        name: field,
        bytes,
        predictionId,
      })
      offloaded = {
        inputEcho: { ...inputEcho, [field]: `${head}…` },
        input: { ...input, [field]: inputFileUri(fileId) },
        inputFiles: { ...inputFiles, [field]: { fileId, head } },
      }
    }
    return offloaded
  } catch (error) {
    await removeFiles(offloaded.inputFiles, files)
    throw error
  }
}

const tooLong = (field: string) =>
  new FluxdError(
    'invalid_input',
    `Expected ${field} as a data URI of base64 with padding, or of at most ${longestText} ` +
      'characters',
    { field },
  )

export async function removeFiles(
  inputFiles: Prediction['inputFiles'] = {},
  files: Pick<Files, 'remove'>,
): Promise<void> {
  for (const { fileId } of Object.values(inputFiles)) await files.remove(fileId)
}
