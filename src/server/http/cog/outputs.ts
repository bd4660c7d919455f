/**
 * The images in a reply of the Cog surface: as data URIs, or PUT to a URL that the operator or the
 * client names and then as URLs. An upload that fails for good loses nothing: it becomes a data
 * URI.
 */
import { setTimeout as delay } from 'node:timers/promises'
import type { OutputFile, Prediction } from '../../../contract/prediction.js'
import type { Files } from '../../../files/files.js'
import { discard, type GuardedClient, type Reply } from '../../../net/guardedClient.js'

export type CogOutputOptions = {
  readonly files: Pick<Files, 'read'>
  /** A folder, with or without a slash at its end. */
  readonly uploadUrl: string | undefined
  /** For the operator's URL, which may be of this network. */
  readonly ownClient: Pick<GuardedClient, 'put'>
  /** For a client's URL. */
  readonly foreignClient: Pick<GuardedClient, 'put'>
  readonly onFailure: (error: unknown) => void
}

/** Headers that an upload hands on. */
export type Trace = Readonly<Record<string, string>>

export type CogOutputs = {
  /** One URI for each image; `prefix` is the client's `output_file_prefix`. */
  readonly deliver: (
    prediction: Pick<Prediction, 'id' | 'output'>,
    trace?: Trace,
    prefix?: string,
  ) => Promise<readonly string[] | undefined>
}

type Attempt = () => Promise<Reply>

const attempts = 4
const firstRetryMs = 500
const timeoutMs = 15_000
const prefixTimeoutMs = 5_000
// A client that asks again gets the same URLs.
const rememberedUploads = 1000

export function createCogOutputs(options: CogOutputOptions): CogOutputs {
  const { files, uploadUrl, ownClient, foreignClient } = options
  const uploaded = new Map<string, Promise<string>>()

  async function deliver(
    { id, output }: Pick<Prediction, 'id' | 'output'>,
    trace: Trace = {},
    prefix?: string,
  ): Promise<readonly string[] | undefined> {
    if (!output) return undefined
    return Promise.all(output.map((file) => deliverFile(file, { id, trace, prefix })))
  }

  async function deliverFile(
    file: OutputFile,
    { id, trace, prefix }: { id: string; trace: Trace; prefix: string | undefined },
  ): Promise<string> {
    const bytes = Buffer.from(await files.read(file.fileId))
    const asDataUri = () => `data:${file.mimeType};base64,${bytes.toString('base64')}`
    const recover = (error: unknown) => {
      options.onFailure(error)
      return asDataUri()
    }
    if (prefix !== undefined) return putForm(`${prefix}${file.name}`, file, bytes).catch(recover)
    if (uploadUrl === undefined) return asDataUri()
    return once(file.fileId, () => putFile(file, bytes, { ...trace, 'x-prediction-id': id })).catch(
      recover,
    )
  }

  /** Sends raw bytes; resolves to the reply's Location, else the URL itself, without its query. */
  async function putFile(file: OutputFile, bytes: Buffer, headers: Trace): Promise<string> {
    const url = `${uploadUrl!.replace(/\/*$/, '/')}${file.name}`
    const reply = await retry(() =>
      ownClient.put(url, bytes, {
        headers: { ...headers, 'content-type': file.mimeType },
        signal: AbortSignal.timeout(timeoutMs),
      }),
    )
    const { location } = reply.headers
    const target = typeof location === 'string' ? new URL(location, url) : new URL(url)
    return `${target.origin}${target.pathname}`
  }

  /** Sends a form with one field `file`, once; resolves to the URL. */
  async function putForm(url: string, file: OutputFile, bytes: Buffer): Promise<string> {
    const form = new FormData()
    form.append('file', new Blob([bytes], { type: file.mimeType }), file.name)
    const { headers, body } = await encodeForm(form)
    const signal = AbortSignal.timeout(prefixTimeoutMs)
    expectSuccess(await foreignClient.put(url, body, { headers, signal }))
    return url
  }

  function once(fileId: string, upload: () => Promise<string>): Promise<string> {
    const url = uploaded.get(fileId) ?? upload()
    uploaded.set(fileId, url)
    url.catch(() => uploaded.delete(fileId))
    const [oldest] = uploaded.keys()
    if (uploaded.size > rememberedUploads && oldest !== undefined) uploaded.delete(oldest)
    return url
  }

  return { deliver }
}

async function encodeForm(form: FormData) {
  const encoded = new Response(form)
  return {
    headers: { 'content-type': encoded.headers.get('content-type')! },
    body: new Uint8Array(await encoded.arrayBuffer()),
  }
}

/** Tries again where that may help: after a network error, 408, 429 and 5xx. */
async function retry(attempt: Attempt): Promise<Reply> {
  for (let number = 1; ; number++) {
    const outcome = await attempt().catch((error: unknown) => ({ error }))
    const isLast = number === attempts
    if ('error' in outcome) {
      if (isLast) throw outcome.error
    } else {
      discard(outcome)
      if (isLast || !isTemporary(outcome.statusCode)) return expectSuccess(outcome)
    }
    await delay(firstRetryMs * 2 ** (number - 1))
  }
}

const isTemporary = (status: number) => status === 408 || status === 429 || status >= 500

function expectSuccess(reply: Reply): Reply {
  if (reply.statusCode < 300) return reply
  throw new Error(
    `Expected ${reply.url.origin} to take the upload but its status was ${reply.statusCode}`,
  )
}
