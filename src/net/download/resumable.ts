/**
 * Resumable downloads: after a broken connection, or in a later process, a download continues with
 * the bytes that are missing (`Range`, and `If-Range` so that all parts are of the same file).
 * Protocol: RFC 9110 §13.1.5 and §14.
 */
import { createHash } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { FluxdError, hasCode, invalidLora } from '../../errors.js'
import { discard, type GuardedClient, type Reply } from '../guardedClient.js'
import { decodeBody, isEncoded } from '../replyBody.js'
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
  /** Consecutive attempts without progress before the download fails. */
  readonly attempts: number
  /** The delay before the second attempt; it doubles with each further one. */
  readonly delayMs: number
  /** The time limit for connecting, for the first byte and between two of them. */
  readonly stallMs: number
  /** The time limit for the whole download. */
  readonly timeoutMs: number
  /** An attempt fails when it is slower for `stallMs`: a server must not hold a download open. */
  readonly minBytesPerSecond: number
}

export const defaultRetryPolicy: RetryPolicy = {
  attempts: 5,
  delayMs: 500,
  stallMs: 30_000,
  timeoutMs: 60 * 60_000,
  minBytesPerSecond: 1024,
}

export type Downloaded =
  | { readonly kind: 'file'; readonly bytes: number; readonly sha256: string }
  /** The server refuses to send the file. */
  | { readonly kind: 'refused'; readonly status: number }

type Step =
  | { readonly kind: 'complete' }
  | { readonly kind: 'refused'; readonly status: number }
  | { readonly kind: 'again'; readonly reason: string; readonly waitMs: number }

// An attempt that received this many bytes counts as progress.
const progressBytes = 2 ** 20
const maxWaitMs = 30_000

/**
 * Downloads `url` to `path`, continuing the bytes that are there. They stay for the next download
 * after network failures and aborts, and are removed after any other failure.
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
  retry: RetryPolicy,
): Promise<Exclude<Step, { kind: 'again' }>> {
  const { attempts, delayMs } = retry
  for (let failures = 0; ; ) {
    const before = part.length()
    const step = await attempt(part, request, client, retry)
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
  retry: RetryPolicy,
): Promise<Step> {
  const { url, bearer, signal } = request
  try {
    const headers = rangeHeaders(part, url)
    const reply = await client.get(url, { headers, bearer, signal })
    const refusal = await prepare(part, reply, url)
    if (!refusal) return await receive(part, reply, request, retry)
    discard(reply)
    return refusal
  } catch (error) {
    // Repeating cannot help against a refused address, a limit, or a full disk.
    if (error instanceof FluxdError || signal.aborted || isDiskError(error)) throw error
    return again(describe(error))
  }
}

const rangeHeaders = (part: PartialFile, url: string): Readonly<Record<string, string>> => {
  const origin = part.origin()
  if (origin?.validator === undefined || origin.url !== hashOf(url)) return {}
  return { range: `bytes=${part.length()}-`, 'if-range': origin.validator }
}

/** Prepares the partial file for the reply's body; returns a step if the body must not be read. */
async function prepare(part: PartialFile, reply: Reply, url: string): Promise<Step | undefined> {
  const { statusCode: status, headers } = reply
  if (status === 200) {
    await part.restart(originOf(reply, url))
    return undefined
  }
  if (status === 206 && !isEncoded(reply) && continues(part, reply)) return undefined
  // A range that does not continue the file: it has changed, or the server is faulty.
  if (status === 206 || status === 416) {
    await part.restart({ url: hashOf(url) })
    return again(`the server answered a range it was not asked for (status ${status})`)
  }
  if (status === 429 || status >= 500)
    return again(`the server answered with status ${status}`, retryAfterMs(headers['retry-after']))
  return { kind: 'refused', status }
}

function originOf(reply: Reply, url: string): Origin {
  // Ranges and lengths of an encoded body count encoded bytes: the file cannot be continued.
  if (isEncoded(reply)) return { url: hashOf(url) }
  const { headers } = reply
  const [etag, date] = [single(headers.etag), single(headers['last-modified'])]
  const length = single(headers['content-length'])
  return {
    url: hashOf(url),
    // A weak ETag does not identify the bytes.
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

/** Some servers ignore If-Range; most send the validator of the file that the range is from. */
function isOfSame(validator: string | undefined, headers: Reply['headers']): boolean {
  if (validator === undefined) return true
  const received = single(validator.endsWith(' GMT') ? headers['last-modified'] : headers.etag)
  return received === undefined || received === validator
}

async function receive(
  part: PartialFile,
  reply: Reply,
  request: DownloadRequest,
  retry: RetryPolicy,
): Promise<Step> {
  const total = isEncoded(reply) ? undefined : (part.origin()?.total ?? announced(part, reply))
  const tooLarge = () =>
    invalidLora(`Expected a file of at most ${request.maxBytes} bytes but it is larger`)
  if ((total ?? 0) > request.maxBytes) {
    discard(reply)
    throw tooLarge()
  }
  const isTooSlow = watchSpeed(retry)
  for await (const chunk of decodeBody(reply, request.maxBytes)) {
    if (part.length() + chunk.length > request.maxBytes) throw tooLarge()
    await part.append(chunk)
    request.onProgress?.(part.length(), total)
    if (isTooSlow(chunk.length))
      return again(`it came at less than ${retry.minBytesPerSecond} bytes a second`)
  }
  if (total === undefined || part.length() === total) return { kind: 'complete' }
  return again(`expected ${total} bytes but received ${part.length()}`)
}

/** A function of the bytes that have just come: whether the last `stallMs` were too slow. */
function watchSpeed({ minBytesPerSecond, stallMs }: RetryPolicy): (bytes: number) => boolean {
  let startedAtMs = performance.now()
  let received = 0
  return (bytes) => {
    received += bytes
    const elapsedMs = performance.now() - startedAtMs
    if (elapsedMs < stallMs) return false
    const isTooSlow = received < (minBytesPerSecond * elapsedMs) / 1000
    startedAtMs = performance.now()
    received = 0
    return isTooSlow
  }
}

/** The total length by the reply, for an empty partial file, which has no origin yet. */
const announced = (part: PartialFile, { headers }: Reply) => {
  const length = single(headers['content-length'])
  return length === undefined ? undefined : part.length() + Number(length)
}

const again = (reason: string, waitMs = 0): Step => ({ kind: 'again', reason, waitMs })

/** Retry-After in seconds as milliseconds; its other form, a date, counts as 0. */
function retryAfterMs(value: string | string[] | undefined): number {
  const seconds = Number(single(value))
  return seconds > 0 ? Math.min(seconds * 1000, maxWaitMs) : 0
}

const single = (value: string | string[] | undefined) => (Array.isArray(value) ? value[0] : value)

const hashOf = (url: string) => createHash('sha256').update(url).digest('hex')

// Another attempt would find the same disk.
const isDiskError = (error: unknown) => hasCode(error, 'ENOSPC', 'EDQUOT', 'EIO', 'EROFS')

const describe = (error: unknown) => (error instanceof Error ? error.message : String(error))
