/**
 * Inputs that are this server's own files: uploads, outputs and offloaded inputs are read from
 * disk, because the media client refuses to connect to this machine. The host in the URL is not
 * compared: ids are unguessable, so a known id is proof enough.
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
 * `media` that reads `…/v1/files/<id>` and `…/files/<id>/<name>` from `files` if they exist there.
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
    // The URL may belong to another fluxd server.
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
