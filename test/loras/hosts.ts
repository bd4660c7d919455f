/**
 * A server on 127.0.0.1 that plays the hosts of LoRAs: files with ranges and ETags, and whatever
 * goes wrong with them, one fault per request.
 */
import { createHash, randomBytes } from 'node:crypto'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { pack } from 'tar-stream'
import { onTestFinished } from 'vitest'

export type Fault =
  | { readonly kind: 'status'; readonly status: number; readonly headers?: Record<string, string> }
  /** Breaks the connection after so many bytes. */
  | { readonly kind: 'cut'; readonly after: number }
  /** Says nothing more after so many bytes, and leaves the connection open. */
  | { readonly kind: 'stall'; readonly after: number }
  /** Ends properly, but with so many bytes missing of those that it announced. */
  | { readonly kind: 'short'; readonly by: number }
  /** Says nothing about the length, and breaks off. */
  | { readonly kind: 'chunkedCut'; readonly after: number }
  /** Sends a range that begins later than was asked for, or one of a longer file. */
  | { readonly kind: 'otherRange'; readonly later: number; readonly longer: number }
  | { readonly kind: 'ignoreRange' }
  /** Sends the range, of whatever file there is by now. */
  | { readonly kind: 'ignoreIfRange' }

export type FileOptions = {
  readonly etag?: string
  readonly lastModified?: string
  readonly faults?: readonly Fault[]
  readonly headers?: Readonly<Record<string, string>>
  /** Between two chunks of 16 KiB. */
  readonly pauseMs?: number
  /** Bytes of the file that the client has written; a connection breaks off when it has them all. */
  readonly received?: () => number
}

export type Asked = { readonly url: string; readonly headers: IncomingMessage['headers'] }
type Handler = (request: IncomingMessage, response: ServerResponse) => void

export async function startHost() {
  const routes = new Map<string, Handler>()
  const asked: Asked[] = []
  const server = createServer((request, response) => {
    asked.push({ url: request.url!, headers: request.headers })
    const handler = routes.get(request.url!) ?? routes.get(request.url!.split('?', 1)[0]!)
    if (handler) handler(request, response)
    else response.writeHead(404).end('not here')
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    server.closeAllConnections()
    server.close()
  })
  const origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  return {
    origin,
    asked,
    askedFor: (path: string) => asked.filter(({ url }) => url.split('?', 1)[0] === path),
    on: (path: string, handler: Handler) => void routes.set(path, handler),
    redirect: (path: string, to: string) =>
      void routes.set(path, (_, response) => response.writeHead(302, { location: to }).end()),
    json: (path: string, value: unknown, status = 200, headers: Record<string, string> = {}) =>
      void routes.set(path, (_, response) =>
        response
          .writeHead(status, { 'content-type': 'application/json', ...headers })
          .end(JSON.stringify(value)),
      ),
    file: (path: string, bytes: Buffer, options: FileOptions = {}) =>
      void routes.set(path, serveFile(bytes, options)),
  }
}

export type Host = Awaited<ReturnType<typeof startHost>>

function serveFile(bytes: Buffer, options: FileOptions): Handler {
  const faults = [...(options.faults ?? [])]
  const validators = {
    ...(options.etag !== undefined && { etag: options.etag }),
    ...(options.lastModified !== undefined && { 'last-modified': options.lastModified }),
    ...options.headers,
  }
  return ({ headers }, response) => {
    const fault = faults.shift()
    if (fault?.kind === 'status') {
      response.writeHead(fault.status, fault.headers).end()
      return
    }
    const from = rangeStart(headers, options, fault)
    const body = bytes.subarray(from ?? 0)
    const { later, longer } = fault?.kind === 'otherRange' ? fault : { later: 0, longer: 0 }
    const last = bytes.length - 1 + longer
    const range =
      from === undefined
        ? undefined
        : { 'content-range': `bytes ${from + later}-${last}/${last + 1}` }
    response.writeHead(range ? 206 : 200, {
      ...validators,
      ...range,
      ...(fault?.kind !== 'chunkedCut' && { 'content-length': body.length }),
    })
    send(response, body, fault, options, from ?? 0)
  }
}

/** The start of the range that is sent, if one is. */
function rangeStart(
  headers: IncomingMessage['headers'],
  { etag, lastModified }: FileOptions,
  fault: Fault | undefined,
): number | undefined {
  const from = /^bytes=(\d+)-/.exec(headers.range ?? '')?.[1]
  if (from === undefined || fault?.kind === 'ignoreRange') return undefined
  const condition = headers['if-range']
  const holds = condition === undefined || condition === etag || condition === lastModified
  return holds || fault?.kind === 'ignoreIfRange' ? Number(from) : undefined
}

async function send(
  response: ServerResponse,
  body: Buffer,
  fault: Fault | undefined,
  { pauseMs = 0, received }: FileOptions,
  from: number,
) {
  /** Sends the first bytes only, and waits until they have arrived. */
  const sendFirst = async (count: number) => {
    response.write(body.subarray(0, count))
    const patience = performance.now() + (received ? 5000 : 20)
    while (performance.now() < patience && (received?.() ?? 0) < from + count)
      await new Promise((resolve) => setTimeout(resolve, 5))
  }
  switch (fault?.kind) {
    case 'cut':
    case 'chunkedCut':
      await sendFirst(fault.after)
      response.destroy()
      return
    case 'stall':
      response.write(body.subarray(0, fault.after))
      return
    case 'short':
      await sendFirst(body.length - fault.by)
      response.socket?.end()
      return
  }
  for (let at = 0; pauseMs > 0 && at < body.length && !response.destroyed; at += 2 ** 14) {
    response.write(body.subarray(at, at + 2 ** 14))
    await new Promise((resolve) => setTimeout(resolve, pauseMs))
  }
  response.end(pauseMs > 0 ? undefined : body)
}

/** A sound safetensors file of about `size` bytes, of other values each time. */
export function makeWeights(size = 4096): Buffer {
  const values = Math.ceil(size / 4)
  const entry = { dtype: 'F32', shape: [values], data_offsets: [0, 4 * values] }
  const header = Buffer.from(JSON.stringify({ 'a.lora_A.weight': entry }))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(header.length))
  return Buffer.concat([length, header, randomBytes(4 * values)])
}

/** A tar of these entries, in this order. */
export async function makeTar(
  entries: readonly (readonly [
    name: string,
    bytes: Buffer,
    type?: 'file' | 'directory' | 'symlink',
  ])[],
): Promise<Buffer> {
  const tar = pack()
  for (const [name, bytes, type = 'file'] of entries)
    if (type === 'file') tar.entry({ name }, bytes)
    else tar.entry({ name, type, linkname: '/etc/passwd' })
  tar.finalize()
  const chunks: Buffer[] = []
  for await (const chunk of tar) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks)
}

export const sha256 = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex')
