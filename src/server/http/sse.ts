/**
 * Server-sent events (WHATWG HTML §9.2): a reply that stays open and grows by one event at a time.
 * Comments in between keep proxies from taking it for dead.
 */
import { PassThrough } from 'node:stream'
import type { FastifyReply } from 'fastify'

export type ServerSentEvent = {
  readonly event: string
  /** May have several lines. */
  readonly data: string
  readonly id?: string
}

export type EventStream = {
  readonly send: (event: ServerSentEvent) => void
  /** As `send`, unless the client is too slow to have read what was sent before. */
  readonly sendIfKeepingUp: (event: ServerSentEvent) => void
  /** After the last event. */
  readonly end: () => void
}

const heartbeatMs = 15_000
// A client that stopped reading must not make the server keep everything for it.
const maxPendingBytes = 256 * 1024 * 1024

/** Begins the reply; `onClose` is called once, when the client goes away or after `end`. */
export function openEventStream(
  reply: FastifyReply,
  onClose: () => void,
  heartbeat = heartbeatMs,
): EventStream {
  const stream = new PassThrough()
  const timer = setInterval(() => stream.write(': keep-alive\n\n'), heartbeat)
  stream.once('close', () => {
    clearInterval(timer)
    onClose()
  })
  reply
    .header('content-type', 'text/event-stream')
    .header('cache-control', 'no-store')
    // nginx would collect events before it passes them on.
    .header('x-accel-buffering', 'no')
    .send(stream)
  // The headers leave with the first bytes, and the client waits for them.
  stream.write(': open\n\n')

  function send(event: ServerSentEvent) {
    if (stream.writableEnded || stream.destroyed) return
    if (stream.writableLength + reply.raw.writableLength > maxPendingBytes) stream.destroy()
    else stream.write(formatEvent(event))
  }

  return {
    send,
    sendIfKeepingUp: (event) => {
      if (!stream.writableNeedDrain && !reply.raw.writableNeedDrain) send(event)
    },
    end: () => stream.end(),
  }
}

/** The event as text; each line of the data is a field of its own. */
export function formatEvent({ event, data, id }: ServerSentEvent): string {
  const lines = data.split(/\r\n|\r|\n/).map((line) => `data: ${line}\n`)
  return `${id === undefined ? '' : `id: ${id}\n`}event: ${event}\n${lines.join('')}\n`
}

/**
 * Runs asynchronous writes to a stream one after the other, in the order of the calls: an event may
 * need an image that has to be read first. `onFailure` receives the first failure; nothing is
 * written after it.
 */
export function createOrderedWriter(
  onFailure: (error: unknown) => void,
): (write: () => void | Promise<void>) => void {
  let pending: Promise<void> = Promise.resolve()
  let hasFailed = false
  return (write) => {
    pending = pending
      .then(() => (hasFailed ? undefined : write()))
      .catch((error: unknown) => {
        hasFailed = true
        onFailure(error)
      })
  }
}

/** A signal that aborts when the client goes away before it has its whole reply. */
export function disconnectSignal(reply: FastifyReply): AbortSignal {
  const controller = new AbortController()
  reply.raw.once('close', () => {
    if (!reply.raw.writableFinished) controller.abort()
  })
  return controller.signal
}
