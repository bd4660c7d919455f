/**
 * Long data URIs of an input, as files: each is decoded once, when it comes, and is not in the store or in
 * memory while its prediction waits. What they were sent as is told from their bytes.
 */
import { fileFields } from '../../contract/input.js'
import type { Prediction } from '../../contract/prediction.js'
import type { Files } from '../../files/files.js'
import { splitDataUri } from '../../net/dataUri.js'
import type { NewPrediction } from '../../predictions/request.js'

/** A wish names such a file by a URI that no client can send: of a scheme that an input may not have. */
const scheme = 'fluxd-input:'

// What is shorter is as quickly read from the store.
const shortest = 64 * 1024

/** What is left of a request: its input cut short, and the files. */
export type Detached = Pick<NewPrediction, 'sent' | 'wish'> & Pick<Prediction, 'inputFiles'>

/** Writes what is long in `request` to files of prediction `predictionId`. Throws `storage_full`. */
export async function detachFiles(
  request: Pick<NewPrediction, 'sent' | 'wish'>,
  predictionId: string,
  files: Pick<Files, 'add' | 'remove'>,
): Promise<Detached> {
  let detached: Detached = { sent: request.sent, wish: request.wish }
  try {
    for (const field of fileFields) {
      const { sent, wish, inputFiles } = detached
      const uri = wish[field]
      // What a model brings is not echoed.
      if (uri === undefined || uri.length < shortest || sent[field] !== uri) continue
      const parts = splitDataUri(uri)
      if (!parts) continue
      const { head, bytes } = parts
      const { id: fileId } = await files.add({ ...ofInput, name: field, bytes, predictionId })
      detached = {
        sent: { ...sent, [field]: `${head}…` },
        wish: { ...wish, [field]: `${scheme}${fileId}` },
        inputFiles: { ...inputFiles, [field]: { fileId, head } },
      }
    }
    return detached
  } catch (error) {
    await removeFiles(detached.inputFiles, files)
    throw error
  }
}

export async function removeFiles(
  inputFiles: Prediction['inputFiles'] = {},
  files: Pick<Files, 'remove'>,
): Promise<void> {
  for (const { fileId } of Object.values(inputFiles)) await files.remove(fileId)
}

const ofInput = { kind: 'input', contentType: 'application/octet-stream' } as const

/** The id of the file that `uri` names, if it is one of a wish. */
export const inputFileId = (uri: string) =>
  uri.startsWith(scheme) ? uri.slice(scheme.length) : undefined
