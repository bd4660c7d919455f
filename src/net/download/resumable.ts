/**
 * Downloads that survive what networks do: a connection that breaks off is taken up where it ended
 * (`Range`, and `If-Range` so that both halves are of the same file), also by a later process.
 * Protocol: RFC 9110 §13.1.5 and §14.
 */
import { createHash } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { FluxdError, hasCode, invalidLora } from '../../errors.js'
import { discard, type GuardedClient, type Reply } from '../guardedClient.js'
import { type Origin, openPartialFile, type PartialFile, removePartialFile } from './partialFile.js'

export type DownloadRequest = {
  readonly url: string
  /** A token for the URL's own server. */
  readonly bearer?: string | undefined
  readonly maxBytes: number
  readonly signal: AbortSignal
  readonly onProgress?: ((done: number, total: number | undefined) => void) | undefined
}

export type RetryPolicy = {
  /** Attempts in a row that bring next to nothing. */
  readonly attempts: number
  /** Before the second attempt; it doubles from then on. */
  readonly delayMs: number
  /** For connecting, for the first byte and between two of them. */
  readonly stallMs: number
  /** For everything together. */
  readonly timeoutMs: number
}

export const defaultRetryPolicy: RetryPolicy = {
  attempts: 5,
  delayMs: 500,
  stallMs: 30_000,
  timeoutMs: 60 * 60_000,
}

export type Downloaded =
  | { readonly kind: 'file'; readonly bytes: number; readonly sha256: string }
  /** The server does not give the file out. */
  | { readonly kind: 'refused'; readonly status: number }

type Step =
  | { readonly kind: 'complete' }
  | { readonly kind: 'refused'; readonly status: number }
  | { readonly kind: 'again'; readonly reason: string; readonly waitMs: number }

// An attempt that brought this much counts as a success of the connection.
const progressBytes = 2 ** 20
const maxWaitMs = 30_000

/**
 * Writes the file behind `url` to `path`, going on with what lies there. What came so far stays
 * there when the connection is given up or the signal aborts, else the part is removed.
 * Throws one sentence; `canceled` when the signal aborted.
 */
export async function download(
  client: GuardedClient,
  path: string,
  request: DownloadRequest,
  retry: RetryPolicy = defaultRetryPolicy,
): Promise<Downloaded> {
  const deadline = AbortSignal.timeout(retry.timeoutMs)
  const signal = AbortSignal.any([request.signal, deadline])
  const part = await openPartialFile(path)
  try {
    const step = await repeat(part, { ...request, signal }, client, retry)
    if (step.kind === 'complete') return { kind: 'file', ...(await part.finish()) }
    await drop(part)
    return step
  } catch (error) {
    if (error instanceof FluxdError) await drop(part)
    else await part.close()
    if (request.signal.aborted)
      throw new FluxdError('canceled', 'The download was canceled', { cause: error })
    if (deadline.aborted)
      throw new Error(`it took longer than ${retry.timeoutMs} ms`, { cause: error })
    throw error
  }
}

async function drop(part: PartialFile): Promise<void> {
  await part.close()
  await removePartialFile(part.path)
}

async function repeat(
  part: PartialFile,
  request: DownloadRequest,
  client: GuardedClient,
  { attempts, delayMs }: RetryPolicy,
): Promise<Exclude<Step, { kind: 'again' }>> {
  for (let failures = 0; ; ) {
    const before = part.length()
    const step = await attempt(part, request, client)
    if (step.kind !== 'again') return step
    failures = part.length() >= before + progressBytes ? 1 : failures + 1
    if (failures >= attempts) throw new Error(step.reason)
    await sleep(Math.max(step.waitMs, delayMs * 2 ** (failures - 1)), undefined, {
      signal: request.signal,
    })
  }
}

async function attempt(
  part: PartialFile,
  request: DownloadRequest,
  client: GuardedClient,
): Promise<Step> {
  const { url, bearer, signal } = request
  try {
    const headers = rangeHeaders(part, url)
    const reply = await client.get(url, { headers, bearer, signal })
    const refusal = await prepare(part, reply, url)
    if (!refusal) return await receive(part, reply, request)
    discard(reply)
    return refusal
  } catch (error) {
    // What the guard or a limit refuses, it will refuse again.
    if (error instanceof FluxdError || signal.aborted || isDiskError(error)) throw error
    return again(describe(error))
  }
}

const rangeHeaders = (part: PartialFile, url: string): Readonly<Record<string, string>> => {
  const origin = part.origin()
  if (origin?.validator === undefined || origin.url !== hashOf(url)) return {}
  return { range: `bytes=${part.length()}-`, 'if-range': origin.validator }
}

/** Makes the part ready for the reply's body; returns why there is none to take. */
async function prepare(part: PartialFile, reply: Reply, url: string): Promise<Step | undefined> {
  const { statusCode: status, headers } = reply
  if (status === 200) {
    await part.restart(originOf(reply, url))
    return undefined
  }
  if (status === 206 && continues(part, reply)) return undefined
  // A range that does not fit: the file has changed, or the server cannot count.
  if (status === 206 || status === 416) {
    await part.restart({ url: hashOf(url) })
    return again(`the server answered a range it was not asked for (status ${status})`)
  }
  if (status === 429 || status >= 500)
    return again(`the server answered with status ${status}`, retryAfterMs(headers['retry-after']))
  return { kind: 'refused', status }
}

function originOf({ headers }: Reply, url: string): Origin {
  const [etag, date] = [single(headers.etag), single(headers['last-modified'])]
  const length = single(headers['content-length'])
  return {
    url: hashOf(url),
    // A weak ETag does not promise the same bytes.
    validator: etag && !etag.startsWith('W/') ? etag : date,
    total: length === undefined ? undefined : Number(length),
  }
}

function continues(part: PartialFile, { headers }: Reply): boolean {
  const range = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(single(headers['content-range']) ?? '')
  const { total, validator } = part.origin() ?? {}
  return (
    range !== null &&
    Number(range[1]) === part.length() &&
    (total === undefined || range[2] === '*' || Number(range[2]) === total) &&
    isOfSame(validator, headers)
  )
}

/** Not every server heeds If-Range; most tell what the range is of. */
function isOfSame(validator: string | undefined, headers: Reply['headers']): boolean {
  if (validator === undefined) return true
  const told = single(validator.endsWith(' GMT') ? headers['last-modified'] : headers.etag)
  return told === undefined || told === validator
}

async function receive(part: PartialFile, reply: Reply, request: DownloadRequest): Promise<Step> {
  const total = part.origin()?.total ?? announced(part, reply)
  const tooLarge = () =>
    invalidLora(`Expected a file of at most ${request.maxBytes} bytes but it is larger`)
  if ((total ?? 0) > request.maxBytes) {
    discard(reply)
    throw tooLarge()
  }
  for await (const chunk of reply.body as AsyncIterable<Buffer>) {
    if (part.length() + chunk.length > request.maxBytes) throw tooLarge()
    await part.append(chunk)
    request.onProgress?.(part.length(), total)
  }
  if (total === undefined || part.length() === total) return { kind: 'complete' }
  return again(`expected ${total} bytes but received ${part.length()}`)
}

/** `origin()` tells nothing while the part is empty. */
const announced = (part: PartialFile, { headers }: Reply) => {
  const length = single(headers['content-length'])
  return length === undefined ? undefined : part.length() + Number(length)
}

const again = (reason: string, waitMs = 0): Step => ({ kind: 'again', reason, waitMs })

/** Seconds only; the other form, a date, is as good as none. */
function retryAfterMs(value: string | string[] | undefined): number {
  const seconds = Number(single(value))
  return seconds > 0 ? Math.min(seconds * 1000, maxWaitMs) : 0
}

const single = (value: string | string[] | undefined) => (Array.isArray(value) ? value[0] : value)

const hashOf = (url: string) => createHash('sha256').update(url).digest('hex')

// No other attempt would find more room.
const isDiskError = (error: unknown) => hasCode(error, 'ENOSPC', 'EDQUOT', 'EIO', 'EROFS')

const describe = (error: unknown) => (error instanceof Error ? error.message : String(error))
