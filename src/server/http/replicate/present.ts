/**
 * The images of a prediction in a reply: as URLs of this server, or as data URIs. Replicate's
 * clients turn `https:` and `data:` outputs into file objects and leave `http:` ones as strings, so
 * that `output[0].url()` of their documented code needs a data URI where this server is reached by
 * http.
 */
import type { FastifyRequest } from 'fastify'
import type { OutputFile, Prediction } from '../../../contract/prediction.js'
import { type ReplicatePrediction, toReplicatePrediction } from '../../../contract/replicate.js'
import type { ReplicateServices } from './context.js'
import type { OutputForm } from './preferHeader.js'

export type Presenter = {
  /** The prediction as the client of `request` gets it; `form` is what `Prefer` asks for. */
  readonly present: (
    prediction: Prediction,
    request: FastifyRequest,
    form?: OutputForm,
  ) => Promise<ReplicatePrediction>
  /** With URLs in any case: a page of a hundred predictions must not hold all their images. */
  readonly presentBriefly: (prediction: Prediction, request: FastifyRequest) => ReplicatePrediction
  /** One image for an event stream, of which every client makes a file object as a URL too. */
  readonly presentFile: (file: OutputFile, request: FastifyRequest) => Promise<string>
}

export function createPresenter({
  files,
  publicUrl,
  outputMode,
}: Pick<ReplicateServices, 'files' | 'publicUrl' | 'outputMode'>): Presenter {
  async function encodeFile(file: OutputFile, form: OutputForm, baseUrl: string) {
    if (form === 'url') return outputUrl(file, baseUrl)
    const bytes = Buffer.from(await files.read(file.fileId))
    return `data:${file.mimeType};base64,${bytes.toString('base64')}`
  }

  return {
    async present(prediction, request, asked) {
      const baseUrl = publicUrl(request)
      const form = outputMode === 'auto' ? (asked ?? chooseForm(request, baseUrl)) : outputMode
      const uris = prediction.output?.map((file) => encodeFile(file, form, baseUrl))
      const output = uris && (await Promise.all(uris))
      return adaptStream(toReplicatePrediction(prediction, output, baseUrl), request)
    },
    presentBriefly: (prediction, request) =>
      adaptStream(withUrls(prediction, publicUrl(request)), request),
    presentFile: (file, request) =>
      encodeFile(file, outputMode === 'data' ? 'data' : 'url', publicUrl(request)),
  }
}

/** The form that `FLUXD_OUTPUT_MODE=auto` stands for where the request names none. */
function chooseForm({ headers }: FastifyRequest, baseUrl: string): OutputForm {
  const needsData =
    baseUrl.startsWith('http:') && replicateClients.test(headers['user-agent'] ?? '')
  return needsData ? 'data' : 'url'
}

/**
 * The JavaScript and Python clients of today, and the generated ones (`AsyncReplicate/Python 2`).
 */
const replicateClients = /^(?:replicate-(?:javascript|python)|(?:Async)?Replicate\/(?:JS|Python))\b/

/** replicate-go fails on `logs` events; it knows output, error and done. */
function adaptStream(body: ReplicatePrediction, { headers }: FastifyRequest): ReplicatePrediction {
  if (!/^replicate[/-]go\b/.test(headers['user-agent'] ?? '')) return body
  return { ...body, urls: { ...body.urls, stream: `${body.urls.stream}?logs=0` } }
}

/** The prediction with its images as URLs below `baseUrl`, which webhooks send too. */
export const withUrls = (prediction: Prediction, baseUrl: string): ReplicatePrediction =>
  toReplicatePrediction(
    prediction,
    prediction.output?.map((file) => outputUrl(file, baseUrl)),
    baseUrl,
  )

const outputUrl = ({ fileId, name }: OutputFile, baseUrl: string) =>
  `${baseUrl}/files/${fileId}/${name}`
