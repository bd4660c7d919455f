/**
 * Responds with a prediction on the Cog surface, in the form that the client asks for: events, at
 * once a 202, or the end of it.
 */
import type { FastifyReply, FastifyRequest } from 'fastify'
import {
  type CogPredictionRequest,
  type PredictionResponse,
  toPredictionResponse,
} from '../../../contract/cog.js'
import type { Prediction } from '../../../contract/prediction.js'
import type { Files } from '../../../files/files.js'
import { isTerminal } from '../../../predictions/prediction.js'
import type { Predictions } from '../../predictions/service.js'
import { sendQueueHeaders } from '../headers.js'
import { encodeWhole, withWholeInput } from '../inputEcho.js'
import { disconnectSignal } from '../sse.js'
import type { CogOutputs, Trace } from './outputs.js'
import { streamPrediction } from './stream.js'

export type ResponderServices = {
  readonly predictions: Predictions
  readonly outputs: CogOutputs
  readonly files: Pick<Files, 'read'>
}

/** Called when the client goes away before the end of its prediction. */
type OnHangUp = () => Promise<void>

export type Responder = {
  readonly respond: (
    id: string,
    request: FastifyRequest,
    reply: FastifyReply,
    onHangUp: OnHangUp,
  ) => Promise<unknown>
  /** As `respond` for a prediction that was there before, without waiting for its end. */
  readonly respondKnown: (
    prediction: Prediction,
    request: FastifyRequest,
    reply: FastifyReply,
  ) => Promise<unknown>
  /** Ends the streams that are open. */
  readonly close: () => void
}

export function createResponder(services: ResponderServices): Responder {
  const { predictions, outputs } = services
  const openStreams = new Set<() => void>()

  const send = async (prediction: Prediction, request: FastifyRequest, reply: FastifyReply) =>
    withWholeInput(await describe(services, prediction, request), prediction, services.files, reply)

  const sendCurrent = async (id: string, request: FastifyRequest, reply: FastifyReply) =>
    send((await predictions.get(id))!, request, reply)

  async function stream(
    id: string,
    request: FastifyRequest,
    reply: FastifyReply,
    onHangUp: OnHangUp,
  ) {
    const close = await streamPrediction(reply, id, {
      predictions,
      deliver: async (file) => (await outputs.deliver({ id, output: [file] }))![0]!,
      describe: async () => encode(services, (await predictions.get(id))!, request),
      onHangUp,
    })
    openStreams.add(close)
    reply.raw.once('close', () => openStreams.delete(close))
    return reply
  }

  return {
    async respond(id, request, reply, onHangUp) {
      if (wantsEvents(request)) return stream(id, request, reply, onHangUp)
      // Cog compares the header by exact equality; any other preference is ignored.
      if (request.headers.prefer === 'respond-async') {
        sendQueueHeaders(reply, await predictions.queueEstimate(id))
        reply.code(202)
        return sendCurrent(id, request, reply)
      }
      const signal = disconnectSignal(reply)
      const prediction = await predictions.waitUntilTerminal(id, { signal })
      if (!isTerminal(prediction)) await onHangUp()
      return sendCurrent(id, request, reply)
    },
    async respondKnown(prediction, request, reply) {
      if (wantsEvents(request)) return stream(prediction.id, request, reply, keepRunning)
      sendQueueHeaders(reply, await predictions.queueEstimate(prediction.id))
      reply.code(isTerminal(prediction) ? 200 : 202)
      return send(prediction, request, reply)
    },
    close() {
      for (const close of openStreams) close()
    },
  }
}

/** A client that comes back for its prediction cancels nothing when it hangs up. */
export const keepRunning: OnHangUp = async () => {}

async function encode(
  services: ResponderServices,
  prediction: Prediction,
  request: FastifyRequest,
) {
  const body = await describe(services, prediction, request)
  return String(await encodeWhole(body, prediction, services.files))
}

async function describe(
  { outputs }: ResponderServices,
  prediction: Prediction,
  request: FastifyRequest,
): Promise<PredictionResponse> {
  const body = request.body as CogPredictionRequest
  const uris = await outputs.deliver(prediction, readTrace(request), body.output_file_prefix)
  return toPredictionResponse(prediction, uris)
}

/**
 * Only where events are preferred to JSON: a client that takes both gets one body (RFC 9110
 * §12.5.1).
 */
export function wantsEvents({ headers }: Pick<FastifyRequest, 'headers'>): boolean {
  const qualities = new Map(parseAccept(headers.accept ?? ''))
  const events = qualities.get('text/event-stream') ?? 0
  const json = qualities.get('application/json') ?? qualities.get('application/*') ?? 0
  return events > json
}

const parseAccept = (header: string) =>
  header.split(',').map((item): [type: string, quality: number] => {
    const [type = '', ...parameters] = item.split(';').map((part) => part.trim().toLowerCase())
    const quality = parameters.find((parameter) => parameter.startsWith('q='))
    return [type, quality === undefined ? 1 : Number(quality.slice(2)) || 0]
  })

/** The trace headers, which uploads and webhooks of the prediction repeat. */
export const readTrace = ({ headers }: FastifyRequest): Trace =>
  Object.fromEntries(
    ['traceparent', 'tracestate'].flatMap((name) => {
      const value = headers[name]
      return typeof value === 'string' ? [[name, value]] : []
    }),
  )
