/**
 * Downloads the file that a LoRA source leads to: from a URL, a hub, CivitAI, a tar or a data URI.
 */
import { createReadStream } from 'node:fs'
import { rm } from 'node:fs/promises'
import { Readable } from 'node:stream'
import { FluxdError, invalidLora } from '../errors.js'
import { decodeDataUri } from '../net/dataUri.js'
import { removePartialFile } from '../net/download/partialFile.js'
import { bearerFor, type Host, type RemoteFile } from '../net/download/remoteFile.js'
import { type Downloaded, download, type RetryPolicy } from '../net/download/resumable.js'
import type { GuardedClient } from '../net/guardedClient.js'
import { redact } from '../net/redact.js'
import { locateOnCivitai } from './civitai.js'
import { type DownloadKind, explainFailure, explainStatus } from './downloadErrors.js'
import { locateOnHub } from './huggingFace.js'
import type { LoraSource } from './reference.js'
import { unpackSafetensors } from './tar.js'

export type Hosts = Readonly<Record<'huggingFace' | 'civitai' | 'replicate', Host>>

export type FetchOptions = {
  readonly client: GuardedClient
  readonly hosts: Hosts
  readonly maxBytes: number
  readonly retry: RetryPolicy
}

export type FetchRequest = {
  /** Where the download is written; the bytes of an interrupted one are continued. */
  readonly part: string
  readonly signal: AbortSignal
  readonly report: (line: string) => void
  readonly onProgress: (done: number, total: number | undefined) => void
}

export type Fetched = {
  readonly path: string
  readonly digest: string
  readonly bytes: number
  /** The file's name in its Hugging Face repository. */
  readonly hubFile?: string
}

export type FetchWeights = (source: LoraSource, request: FetchRequest) => Promise<Fetched>

/**
 * Downloads weights into a file that the caller moves or removes. Throws `lora_invalid` in the
 * words of weights.py, or `canceled`; the content of the file is not checked.
 */
export function createFetch(options: FetchOptions): FetchWeights {
  const { hosts, client, maxBytes } = options
  const { huggingFace, civitai, replicate } = hosts

  async function get(
    kind: DownloadKind,
    file: RemoteFile,
    request: FetchRequest,
  ): Promise<Fetched> {
    const reply = await withExplanation(kind, request.signal, () => downloadFile(file, request))
    if (reply.kind === 'refused') throw invalidLora(explainStatus(kind, reply.status))
    return complete(file, reply, request)
  }

  const downloadFile = ({ url, bearer }: RemoteFile, { part, signal, onProgress }: FetchRequest) =>
    download(client, part, { url, bearer, maxBytes, signal, onProgress }, options.retry)

  function getFile(kind: DownloadKind, file: RemoteFile, request: FetchRequest): Promise<Fetched> {
    request.report(`downloading weights from ${redact(file.url)}`)
    return get(kind, file, request)
  }

  async function getFromHub(
    source: Extract<LoraSource, { kind: 'huggingface' }>,
    request: FetchRequest,
  ): Promise<Fetched> {
    try {
      const file = await locateOnHub(source, huggingFace, client, request.signal)
      const reply = await downloadFile(file, request)
      if (reply.kind === 'refused')
        throw invalidLora(`the server answered with status ${reply.status}`)
      return { ...(await complete(file, reply, request)), hubFile: file.file }
    } catch (error) {
      throw explain(
        error,
        request.signal,
        (cause) => `Failed to download from HuggingFace: ${cause}`,
      )
    }
  }

  async function getCivitaiPage(id: string, request: FetchRequest): Promise<Fetched> {
    const file = await withExplanation('civitai', request.signal, () =>
      locateOnCivitai(id, civitai, client, request.signal),
    )
    return getFile('civitai', file, request)
  }

  async function getTar(url: string, request: FetchRequest): Promise<Fetched> {
    const { path } = await get('tarball', fileAt(url, replicate), request)
    try {
      return await unpack(createReadStream(path), 'tarball', request)
    } finally {
      await removePartialFile(path)
    }
  }

  async function unpack(
    tar: Readable,
    place: 'tarball' | 'data URI',
    { part, signal }: FetchRequest,
  ): Promise<Fetched> {
    const path = `${part}.entry`
    try {
      const { bytes, sha256 } = await unpackSafetensors(tar, path, place, maxBytes, signal)
      return { path, bytes, digest: sha256 }
    } catch (error) {
      await rm(path, { force: true })
      throw error
    }
  }

  return (source, request) => {
    switch (source.kind) {
      case 'data':
        return unpack(Readable.from([decodeTar(source.uri, maxBytes)]), 'data URI', request)
      case 'huggingface':
        return getFromHub(source, request)
      case 'civitaiPage':
        return getCivitaiPage(source.id, request)
      case 'civitaiFile': {
        const url = source.url.replace(/^https?:\/\/civitai\.com/, civitai.url)
        return getFile('civitai', fileAt(url, civitai), request)
      }
      case 'file':
        return getFile('file', fileAt(source.url, huggingFace), request)
      case 'replicate':
        return getTar(weightsUrl(replicate.url, source), request)
      case 'tar':
        return getTar(source.url, request)
      default:
        return source satisfies never
    }
  }
}

const fileAt = (url: string, host: Host): RemoteFile => ({
  url,
  bearer: bearerFor(url, host),
  sha256: undefined,
})

function weightsUrl(
  url: string,
  { owner, model, version }: Extract<LoraSource, { kind: 'replicate' }>,
): string {
  const path = version === undefined ? '' : `/versions/${version}`
  return `${url}/${owner}/${model}${path}/_weights`
}

async function complete(
  { sha256 }: RemoteFile,
  file: Extract<Downloaded, { kind: 'file' }>,
  { part }: FetchRequest,
): Promise<Fetched> {
  if (sha256 === undefined || sha256 === file.sha256)
    return { path: part, digest: file.sha256, bytes: file.bytes }
  await removePartialFile(part)
  throw invalidLora(`Expected a file with the sha256 ${sha256} but received ${file.sha256}`)
}

function decodeTar(uri: string, maxBytes: number): Uint8Array {
  try {
    return decodeDataUri(uri, maxBytes)
  } catch (error) {
    if (error instanceof FluxdError) throw invalidLora(error.message, error)
    throw error
  }
}

/** Passes `lora_invalid` on; any other error becomes the cause in a sentence of weights.py. */
async function withExplanation<T>(
  kind: DownloadKind,
  signal: AbortSignal,
  task: () => Promise<T>,
): Promise<T> {
  try {
    return await task()
  } catch (error) {
    if (error instanceof FluxdError && error.code === 'lora_invalid') throw error
    throw explain(error, signal, (cause) => explainFailure(kind, cause))
  }
}

function explain(
  error: unknown,
  signal: AbortSignal,
  toMessage: (cause: string) => string,
): FluxdError {
  if (signal.aborted)
    return new FluxdError('canceled', 'The download was canceled', { cause: error })
  return invalidLora(toMessage(error instanceof Error ? error.message : String(error)), error)
}
