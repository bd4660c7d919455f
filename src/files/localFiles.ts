/**
 * This server's own files as inputs: what was uploaded or made here, or came with the input, is
 * read from disk, not fetched over the network, which the media client would refuse. An id that is
 * known cannot have been guessed, so the host and the path in front of it do not matter.
 */
import { FluxdError, invalidInput } from '../errors.js'
import type { MediaClient } from '../net/fetchMedia.js'
import type { Files } from './files.js'

/** Names a file that came inside an input: a scheme that no client may send. */
const inputScheme = 'fluxd-input:'

export const inputFileUri = (fileId: string) => `${inputScheme}${fileId}`

const inputFileId = (uri: string) =>
  uri.startsWith(inputScheme) ? uri.slice(inputScheme.length) : undefined

const ownPath = /\/(?:v1\/files\/([0-9a-z]{26})(?:\/download)?|files\/([0-9a-z]{26})\/[^/]+)$/

/**
 * `media`, reading `…/v1/files/<id>` and `…/files/<id>/<name>` from `files` where they are there.
 */
export const withLocalFiles = (
  media: MediaClient,
  files: Pick<Files, 'find' | 'read'>,
): Pick<MediaClient, 'fetch'> => ({
  async fetch(uri, signal) {
    const inputId = inputFileId(uri)
    if (inputId !== undefined) return files.read(inputId)
    const id = ownFileId(uri)
    if (id === undefined) return media.fetch(uri, signal)
    if (await files.find(id)) return files.read(id)
    // It may be another server's.
    return media.fetch(uri, signal).catch((error: unknown) => {
      throw explainAbsence(id, error)
    })
  },
})

const explainAbsence = (id: string, error: unknown) =>
  error instanceof FluxdError && error.code === 'invalid_input'
    ? invalidInput(
        `There is no file ${id} here any more, and it cannot be fetched: ${error.message}`,
      )
    : error

function ownFileId(uri: string): string | undefined {
  if (!/^https?:/i.test(uri) || !URL.canParse(uri)) return undefined
  const match = ownPath.exec(new URL(uri).pathname)
  return match?.[1] ?? match?.[2]
}
