/**
 * A prediction as server-sent events in Cog's words, for `Accept: text/event-stream`: start, log,
 * output, metric and, as the last one, completed (C-2.4). Unlike Cog's, events
 * have ids.
 */
import type { FastifyReply } from 'fastify'
import { toCogMetrics } from '../../../contract/cog.js'
import type { OutputFile, Prediction } from '../../../contract/prediction.js'
import type { PredictionEvent } from '../../../predictions/eventLog.js'
import { isTerminal } from '../../../predictions/prediction.js'
import type { Predictions } from '../../predictions/service.js'
import { createOrderedWriter, openEventStream } from '../sse.js'

type Message = { readonly event: string /** JSON. */; readonly data: string }

export type CogStreamOptions = {
  readonly predictions: Pick<Predictions, 'watch'>
  readonly deliver: (file: OutputFile) => Promise<string>
  /** The prediction as it is then, as JSON. */
  readonly describe: () => Promise<string>
  /** The client has gone, or the server ends, before the end. */
  readonly onHangUp: () => Promise<void>
}

/**
 * Streams the events of prediction `id` from its beginning; returns a function that ends the
 * stream.
 */
export async function streamPrediction(
  reply: FastifyReply,
  id: string,
  { predictions, deliver, describe, onHangUp }: CogStreamOptions,
): Promise<() => void> {
  let isOver = false
  let outputs = 0
  let isClosed = false
  let stop = () => {}
  const stream = openEventStream(reply, () => {
    isClosed = true
    stop()
    // It logs its own failure.
    if (!isOver) void onHangUp()
  })

  async function translate(event: PredictionEvent): Promise<readonly Message[]> {
    switch (event.kind) {
      case 'log':
        return [message('log', { source: 'stdout', data: `${event.line}\n` })]
      case 'output':
        return [message('output', { chunk: await deliver(event.file), index: outputs++ })]
      case 'status':
        return isTerminal(event.prediction)
          ? describeEnd(event.prediction, await describe())
          : describeStart(event.prediction)
      default:
        return event satisfies never
    }
  }

  const write = createOrderedWriter((error) => {
    reply.log.error({ err: error, prediction: id }, 'event stream broken off')
    stream.end()
  })
  stop = await predictions.watch(id, (event) => {
    if (event.kind === 'status' && isTerminal(event.prediction)) isOver = true
    write(async () => {
      for (const { event: name, data } of await translate(event))
        stream.send({ event: name, data, id: String(event.id) })
      if (isOver && event.kind === 'status') stream.end()
    })
  })
  if (isClosed) stop()
  return () => stream.end()
}

const message = (event: string, data: unknown): Message => ({ event, data: JSON.stringify(data) })

const describeStart = ({ id, status }: Prediction): Message[] =>
  status === 'starting' ? [message('start', { id, status })] : []

const describeEnd = (prediction: Prediction, body: string): Message[] => [
  ...Object.entries(toCogMetrics(prediction)).map(([name, value]) =>
    message('metric', { name, value, mode: 'replace' }),
  ),
  { event: 'completed', data: body },
]
