/** How the pictures of a prediction are told: as URLs of this server, or inside the reply. */
import type { FastifyRequest } from 'fastify'
import type { OutputFile, Prediction } from '../../../contract/prediction.js'
import { type ReplicatePrediction, toReplicatePrediction } from '../../../contract/replicate.js'
import type { ReplicateServices } from './context.js'
import type { OutputForm } from './preferHeader.js'

export type Presenter = {
  /** The prediction as the client of `request` gets it; `form` is what this request asks for. */
  readonly present: (
    prediction: Prediction,
    request: FastifyRequest,
    form?: OutputForm,
  ) => Promise<ReplicatePrediction>
  /** With URLs in any case: a page of a hundred predictions must not hold all their pictures. */
  readonly presentBriefly: (prediction: Prediction, request: FastifyRequest) => ReplicatePrediction
  readonly presentFile: (
    file: OutputFile,
    request: FastifyRequest,
    form?: OutputForm,
  ) => Promise<string>
}

export function createPresenter({
  files,
  publicUrl,
  outputMode,
}: Pick<ReplicateServices, 'files' | 'publicUrl' | 'outputMode'>): Presenter {
  const chooseForm = (form: OutputForm = 'url') => (outputMode === 'auto' ? form : outputMode)

  async function presentFile(file: OutputFile, request: FastifyRequest, form?: OutputForm) {
    if (chooseForm(form) === 'url') return outputUrl(file, publicUrl(request))
    const bytes = Buffer.from(await files.read(file.fileId))
    return `data:${file.mimeType};base64,${bytes.toString('base64')}`
  }

  return {
    async present(prediction, request, form) {
      const uris = prediction.output?.map((file) => presentFile(file, request, form))
      const output = uris && (await Promise.all(uris))
      return toReplicatePrediction(prediction, output, publicUrl(request))
    },
    presentBriefly: (prediction, request) => withUrls(prediction, publicUrl(request)),
    presentFile,
  }
}

/** The prediction with its pictures as URLs below `baseUrl`, as webhooks tell it too. */
export const withUrls = (prediction: Prediction, baseUrl: string): ReplicatePrediction =>
  toReplicatePrediction(
    prediction,
    prediction.output?.map((file) => outputUrl(file, baseUrl)),
    baseUrl,
  )

const outputUrl = ({ fileId, name }: OutputFile, baseUrl: string) =>
  `${baseUrl}/files/${fileId}/${name}`
