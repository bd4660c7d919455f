/**
 * Bodies about a prediction with its whole input. Fields that are in files (see
 * predictions/offloadedInputs.ts) are written into the finished JSON: base64 needs no escaping, and
 * searching megabytes for characters to escape takes longer than all the rest.
 */
import type { FastifyReply } from 'fastify'
import type { InputFile, Prediction } from '../../contract/prediction.js'
import type { Files } from '../../files/files.js'
import { randomId } from '../../store/randomId.js'

type WithFiles = Pick<Prediction, 'inputFiles'>
type Body = { readonly input: Prediction['input'] }

/** The payload of `reply`: `body` itself or, where its input has files, its JSON. */
export async function withWholeInput(
  body: Body,
  { inputFiles }: WithFiles,
  files: Pick<Files, 'read'>,
  reply: FastifyReply,
): Promise<Body | Buffer> {
  if (!inputFiles) return body
  reply.type('application/json; charset=utf-8')
  return encodeWhole(body, { inputFiles }, files)
}

/** `body` as JSON, in UTF-8. */
export async function encodeWhole(
  body: Body,
  { inputFiles = {} }: WithFiles,
  files: Pick<Files, 'read'>,
): Promise<Buffer> {
  // In the order in which they come in the text.
  const found = Object.keys(body.input).flatMap((field) => inputFiles[field] ?? [])
  const marks = new Map(found.map((file) => [file, randomId()]))
  const pieces: Buffer[] = []
  let rest = JSON.stringify({ ...body, input: markFiles(body.input, inputFiles, marks) })
  for (const [{ fileId }, mark] of marks) {
    const at = rest.indexOf(mark)
    const bytes = await files.read(fileId)
    pieces.push(Buffer.from(rest.slice(0, at)), encodeBase64(bytes))
    rest = rest.slice(at + mark.length)
  }
  return Buffer.concat([...pieces, Buffer.from(rest)])
}

/** The input with its files as URIs that hold a mark in place of the base64. */
const markFiles = (
  input: Prediction['input'],
  inputFiles: NonNullable<WithFiles['inputFiles']>,
  marks: ReadonlyMap<InputFile, string>,
) =>
  Object.fromEntries(
    Object.entries(input).map(([field, value]) => {
      const file = inputFiles[field]
      return [field, file ? `${file.head}${marks.get(file)}` : value]
    }),
  )

const encodeBase64 = ({ buffer, byteOffset, length }: Uint8Array) =>
  Buffer.from(Buffer.from(buffer, byteOffset, length).toString('base64'), 'latin1')
