/**
 * Bodies of replies: read whole, bounded, and without their content encoding. fluxd asks for none
 * (`identity`), because images and weights do not shrink and ranges need the bytes as they are, but
 * some servers and CDNs send objects as they were stored. Registry: IANA HTTP Content Coding; RFC
 * 9110 §8.4.
 */
import { pipeline, Readable, Transform } from 'node:stream'
import * as zlib from 'node:zlib'
import { invalidInput } from '../errors.js'
import { discard, type Reply } from './guardedClient.js'
import { redact } from './redact.js'

// More than one is legal and never seen outside of attacks that multiply their ratios.
const maxCodings = 2

type Decode = (source: Readable) => Readable

/** Node has zstd since 22.15. */
const { createZstdDecompress } = zlib as { readonly createZstdDecompress?: () => Transform }

const decoders: Readonly<Record<string, Decode | undefined>> = {
  gzip: (source) => chain(source, zlib.createGunzip()),
  'x-gzip': (source) => chain(source, zlib.createGunzip()),
  deflate: (source) => Readable.from(inflate(source)),
  br: (source) => chain(source, zlib.createBrotliDecompress()),
  zstd: createZstdDecompress && ((source) => chain(source, createZstdDecompress())),
}

/** The whole file. Throws `invalid_input` as soon as it announces or has more than `maxBytes`. */
export async function readBody(reply: Reply, maxBytes: number): Promise<Buffer> {
  const tooLarge = () => invalidInput(`Expected a file of at most ${maxBytes} bytes`)
  const announced = Number(reply.headers['content-length'] ?? 0)
  if (announced > maxBytes) {
    discard(reply)
    throw tooLarge()
  }
  const chunks: Buffer[] = []
  let length = 0
  for await (const chunk of decodeBody(reply, maxBytes)) {
    length += chunk.length
    if (length > maxBytes) throw tooLarge()
    chunks.push(chunk)
  }
  return Buffer.concat(chunks, length)
}

/** Whether the body of `reply` is sent in an encoding, so that its lengths are not the file's. */
export const isEncoded = ({ headers }: Pick<Reply, 'headers'>): boolean =>
  listCodings(headers).length > 0

/**
 * The bytes of the file in the body of `reply`, decoded chunk by chunk. Reading throws
 * `invalid_input` as soon as an encoded form is longer than `maxBytes`; the caller bounds the
 * decoded bytes. Throws `invalid_input` for an encoding that cannot be decoded.
 */
export function decodeBody(reply: Reply, maxBytes: number): AsyncIterable<Buffer> {
  const codings = listCodings(reply.headers)
  let body: Readable = reply.body
  for (const coding of codings.toReversed()) {
    const decode = codings.length <= maxCodings ? decoders[coding] : undefined
    if (!decode) {
      discard(reply)
      throw unknownEncoding(reply)
    }
    body = decode(chain(body, limit(maxBytes)))
  }
  return body
}

/** The codings of a reply in the order in which they were applied. */
const listCodings = (headers: Reply['headers']): string[] =>
  [headers['content-encoding'] ?? []]
    .flat()
    .flatMap((field) => field.split(','))
    .map((coding) => coding.trim().toLowerCase())
    .filter((coding) => coding !== '' && coding !== 'identity')

function unknownEncoding({ url, headers }: Reply) {
  const known = Object.keys(decoders).filter((coding) => decoders[coding] && coding !== 'x-gzip')
  const received = String(headers['content-encoding']).slice(0, 100)
  return invalidInput(
    `Expected the file at ${redact(url.href)} without a content encoding or in ` +
      `${known.join(', ')} but received ${received}`,
  )
}

/** `source` through `stage`. An error destroys both, and the reader of the stage gets it. */
function chain(source: Readable, stage: Transform): Readable {
  pipeline(source, stage, () => {})
  return stage
}

function limit(maxBytes: number): Transform {
  let passed = 0
  return new Transform({
    transform(chunk: Buffer, _, done) {
      passed += chunk.length
      if (passed <= maxBytes) done(null, chunk)
      else done(invalidInput(`Expected a file of at most ${maxBytes} bytes`))
    },
  })
}

/** `deflate` means the zlib format (RFC 9110 §8.4.1.2), but some servers send raw deflate. */
async function* inflate(source: Readable): AsyncGenerator<Buffer> {
  const iterator = source[Symbol.asyncIterator]()
  const first = await iterator.next()
  if (first.done) return
  const head: Buffer = first.value
  async function* whole() {
    yield head
    yield* { [Symbol.asyncIterator]: () => iterator }
  }
  // The first two bytes of the zlib format: method 8, and a multiple of 31 (RFC 1950 §2.2).
  const isZlib = (head[0]! & 15) === 8 && (head.length < 2 || head.readUInt16BE() % 31 === 0)
  yield* chain(Readable.from(whole()), isZlib ? zlib.createInflate() : zlib.createInflateRaw())
}
