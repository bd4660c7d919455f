/**
 * `urls.stream`: the events of a prediction, for every client that has the token, from the
 * beginning or from where its connection broke. `?preview=1` adds previews, `?logs=0` leaves logs
 * out: clients that do not know an event must not meet it (C-3.9).
 */
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { z } from 'zod'
import type { Prediction } from '../../../contract/prediction.js'
import type { PredictionEvent } from '../../../predictions/eventLog.js'
import type { Preview } from '../../../predictions/feed.js'
import { isTerminal } from '../../../predictions/prediction.js'
import {
  createOrderedWriter,
  type EventStream,
  openEventStream,
  type ServerSentEvent,
} from '../sse.js'
import type { ZodTypeProvider } from '../zod.js'
import type { ReplicateServices } from './context.js'
import { notFound } from './errors.js'
import { createPresenter, type Presenter } from './present.js'

const TokenPath = z.object({ token: z.string() })
const StreamQuery = z.object({ preview: z.string().optional(), logs: z.string().optional() })

export function streamRoutes(
  server: FastifyInstance,
  services: Pick<ReplicateServices, 'predictions' | 'files' | 'publicUrl' | 'outputMode'>,
): void {
  const app = server.withTypeProvider<ZodTypeProvider>()
  const { predictions } = services
  const presenter = createPresenter(services)
  const open = new Set<EventStream>()

  app.get(
    '/files/stream-:token',
    {
      schema: {
        summary: 'Logs and images as server-sent events, and small previews with preview=1',
        replies: { 200: 'text/event-stream' },
        params: TokenPath,
        querystring: StreamQuery,
      },
      config: { access: 'public' },
    },
    async (request, reply) => {
      const prediction = await predictions.findByStreamToken(request.params.token)
      if (!prediction) throw notFound()
      // It ends at once: a stream would be written for a client that reads none of it.
      if (request.method === 'HEAD') return reply.type('text/event-stream').send()
      const stops: (() => void)[] = []
      let isClosed = false
      const stream = openEventStream(reply, () => {
        isClosed = true
        for (const stop of stops) stop()
        open.delete(stream)
      })
      open.add(stream)
      const write = createEventWriter(stream, presenter, request, prediction)
      const sendEvent = request.query.logs === '0' ? withoutLogs(write) : write
      const after = parseEventId(request.headers['last-event-id'])
      stops.push(
        await predictions.watch(prediction.id, sendEvent, after === undefined ? {} : { after }),
      )
      if (request.query.preview === '1' && !isTerminal(prediction))
        stops.push(
          predictions.watchPreviews(prediction.id, (preview) => sendPreview(preview, stream)),
        )
      // Nothing came after the end, which the client has seen: it is sent again.
      if (after !== undefined && isTerminal(prediction))
        sendEvent({ kind: 'status', prediction, id: after })
      if (isClosed) for (const stop of stops) stop()
      return reply
    },
  )

  // A server that closes waits for its replies.
  app.addHook('preClose', async () => {
    for (const stream of open) stream.end()
  })
}

type SendEvent = (event: PredictionEvent) => void

const withoutLogs =
  (send: SendEvent): SendEvent =>
  (event) => {
    if (event.kind !== 'log') send(event)
  }

/** Without an id: a preview is not repeated after a reconnection. */
function sendPreview({ image, step, steps, bytes, mimeType }: Preview, stream: EventStream): void {
  const uri = `data:${mimeType};base64,${Buffer.from(bytes).toString('base64')}`
  const data = JSON.stringify({ index: image, step, steps, uri })
  stream.sendIfKeepingUp({ event: 'preview', data })
}

/** Translates events into Replicate's and writes them in their order. */
function createEventWriter(
  stream: EventStream,
  { presentFile }: Presenter,
  request: FastifyRequest,
  prediction: Prediction,
): SendEvent {
  const write = createOrderedWriter((error) => {
    request.log.error({ err: error, prediction: prediction.id }, 'event stream broken off')
    stream.end()
  })

  async function send(event: PredictionEvent): Promise<void> {
    const id = formatEventId(event.id)
    switch (event.kind) {
      case 'log':
        return stream.send({ event: 'logs', data: `${event.line}\n`, id })
      case 'output':
        return stream.send({ event: 'output', data: await presentFile(event.file, request), id })
      case 'status':
        if (!isTerminal(event.prediction)) return
        for (const message of describeEnd(event.prediction)) stream.send({ ...message, id })
        return stream.end()
      default:
        return event satisfies never
    }
  }

  return (event) => write(() => send(event))
}

/** An error comes before the end that it explains. */
function describeEnd({ status, error = '' }: Prediction): ServerSentEvent[] {
  if (status === 'succeeded') return [done({})]
  if (status === 'canceled') return [done({ reason: 'canceled' })]
  return [{ event: 'error', data: JSON.stringify({ detail: error }) }, done({ reason: 'error' })]
}

const done = (data: { readonly reason?: string }): ServerSentEvent => ({
  event: 'done',
  data: JSON.stringify(data),
})

// Our ids are milliseconds times 1024 and a counter; clients get `<unix seconds>:<rest>`.
const perSecond = 1000 * 1024

const formatEventId = (id: number) => `${Math.floor(id / perSecond)}:${id % perSecond}`

/** Undefined for what is no id of ours: such a client sees all events. */
function parseEventId(header: string | string[] | undefined): number | undefined {
  const match = /^(\d{1,10}):(\d{1,7})$/.exec(String(header ?? ''))
  return match ? Number(match[1]) * perSecond + Number(match[2]) : undefined
}
