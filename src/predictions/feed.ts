/**
 * What running predictions say: events, previews and their state of the moment. A worker writes it,
 * a server reads it; what it says is in no store until the prediction is over.
 */
import type { OutputFile, Prediction, WebhookEvent } from '../contract/prediction.js'
import {
  createEventIds,
  createEventLog,
  type EventLog,
  type EventPayload,
  type PredictionListener,
} from './eventLog.js'
import { addOutput, isTerminal, log } from './prediction.js'

/** Receives what a webhook may report of a prediction. */
export type EventHook = (prediction: Prediction, kind: WebhookEvent) => void

/** What image `image` will be like after `step` of `steps`, as a small file. */
export type Preview = {
  readonly image: number
  readonly step: number
  readonly steps: number
  readonly bytes: Uint8Array
  readonly mimeType: string
}

export type PreviewListener = (preview: Preview) => void

/** The reader's side. */
export type Feed = {
  /** The state of the moment of one that a worker holds. */
  readonly snapshot: (id: string) => Prediction | undefined
  /** Whether there are events of it: a worker holds it or has held it lately. */
  readonly has: (id: string) => boolean
  /** Replays what came after the event `after`, then what comes; returns how to stop. */
  readonly watch: (id: string, listener: PredictionListener, after?: number) => () => void
  /** Previews are made while there is a watcher; returns how to stop. */
  readonly watchPreviews: (id: string, listener: PreviewListener) => () => void
  /** The end of one that no worker holds. */
  readonly end: (prediction: Prediction) => void
  /** Calls `hook` for every event of every prediction that a worker holds; returns how to stop. */
  readonly observe: (hook: EventHook) => () => void
}

/** Whether previews of a prediction are wanted, and when that changes. */
export type PreviewSubscription = {
  readonly isWanted: () => boolean
  /** Returns how to stop. */
  readonly onChange: (listener: () => void) => () => void
}

/** The writer's side of one prediction. */
export type FeedWriter = {
  readonly prediction: () => Prediction
  readonly writeLine: (line: string) => void
  readonly addOutput: (file: OutputFile) => void
  /** It runs, or runs again, as `prediction` says. */
  readonly begin: (prediction: Prediction) => void
  /** It is over; nothing is written after it. */
  readonly settle: (prediction: Prediction) => void
  /** The worker holds it no longer, and it is not over. */
  readonly close: () => void
  readonly showPreview: PreviewListener
  readonly previews: PreviewSubscription
}

export type LocalFeed = Feed & { readonly open: (prediction: Prediction) => FeedWriter }

type Channel = {
  readonly events: EventLog
  readonly previews: Set<PreviewListener>
  /** While a worker holds the prediction. */
  held?: Prediction | undefined
  onPreviews?: (() => void) | undefined
  watchers: number
}

// A watcher that lost its connection comes back for the rest.
const rememberedEnds = 100

/** The feed of a worker in this process. */
export function createLocalFeed(nextEventId = createEventIds()): LocalFeed {
  const channels = new Map<string, Channel>()
  const ended: string[] = []
  const hooks = new Set<EventHook>()

  function channelOf(id: string): Channel {
    const known = channels.get(id)
    if (known) return known
    const channel: Channel = {
      events: createEventLog(nextEventId),
      previews: new Set(),
      watchers: 0,
    }
    channels.set(id, channel)
    return channel
  }

  /** Drops a channel without writer or watchers that is not remembered either. */
  function dropIdle(id: string): void {
    const channel = channels.get(id)
    if (channel && !channel.held && channel.watchers === 0 && !ended.includes(id))
      channels.delete(id)
  }

  function watch(id: string, listener: PredictionListener, after?: number): () => void {
    const channel = channelOf(id)
    channel.watchers++
    const stop = channel.events.watch(listener, after)
    return once(() => {
      stop()
      channel.watchers--
      dropIdle(id)
    })
  }

  function watchPreviews(id: string, listener: PreviewListener): () => void {
    const channel = channelOf(id)
    channel.watchers++
    channel.previews.add(listener)
    if (channel.previews.size === 1) channel.onPreviews?.()
    return once(() => {
      channel.watchers--
      channel.previews.delete(listener)
      if (channel.previews.size === 0) channel.onPreviews?.()
      dropIdle(id)
    })
  }

  function end(prediction: Prediction): void {
    const { id } = prediction
    const channel = channels.get(id)
    if (!channel || !isTerminal(prediction) || ended.includes(id)) return
    channel.held = undefined
    ended.push(id)
    channel.events.append({ kind: 'status', prediction })
    if (ended.length > rememberedEnds) dropIdle(ended.shift()!)
  }

  function report(prediction: Prediction, kind: WebhookEvent): void {
    for (const hook of [...hooks]) hook(prediction, kind)
  }

  function open(first: Prediction): FeedWriter {
    const { id } = first
    const channel = channelOf(id)
    channel.held = first

    function update(change: (prediction: Prediction) => Prediction, event: EventPayload) {
      if (!channel.held) return
      channel.held = change(channel.held)
      channel.events.append(event)
    }

    return {
      prediction: () => channel.held ?? first,
      writeLine(line) {
        update((prediction) => log(prediction, line), { kind: 'log', line })
        if (channel.held) report(channel.held, 'logs')
      },
      addOutput(file) {
        update((prediction) => addOutput(prediction, file), { kind: 'output', file })
        if (channel.held) report(channel.held, 'output')
      },
      begin(prediction) {
        const isFirst = channel.held?.status === 'starting'
        update(() => prediction, { kind: 'status', prediction })
        if (channel.held && isFirst) report(prediction, 'start')
      },
      settle(prediction) {
        end(prediction)
        report(prediction, 'completed')
      },
      close() {
        channel.held = undefined
        dropIdle(id)
      },
      showPreview(preview) {
        for (const listener of [...channel.previews]) listener(preview)
      },
      previews: {
        isWanted: () => channel.previews.size > 0,
        onChange(listener) {
          channel.onPreviews = listener
          return () => {
            channel.onPreviews = undefined
          }
        },
      },
    }
  }

  return {
    snapshot: (id) => channels.get(id)?.held,
    has: (id) => channels.get(id)?.held !== undefined || ended.includes(id),
    watch,
    watchPreviews,
    end,
    observe(hook) {
      hooks.add(hook)
      return () => {
        hooks.delete(hook)
      }
    },
    open,
  }
}

function once(work: () => void): () => void {
  let isDone = false
  return () => {
    if (isDone) return
    isDone = true
    work()
  }
}
