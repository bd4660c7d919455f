/**
 * Metrics for Prometheus. Names and meanings follow vLLM's, which other inference servers share. No
 * label contains text of a user, so that the number of series is bounded.
 */
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'

export type PredictionEnd = {
  /** A name of the catalog. */
  readonly model: string
  readonly outcome: 'succeeded' | 'failed' | 'canceled'
  readonly keyId: string | undefined
  /** In seconds; undefined for a prediction that never ran. */
  readonly queueTime?: number | undefined
  readonly predictTime?: number | undefined
  readonly totalTime?: number | undefined
  readonly images: number
}

export type GenerationEnd = {
  readonly variant: string
  readonly precision: string
  readonly mode: string
  /** The steps of all images together. */
  readonly steps: number
  readonly stageSeconds: Readonly<Record<string, number>>
}

type Counts = { readonly waiting: number; readonly running: number }
type Executor = { readonly engine: string }

export type Metrics = {
  readonly contentType: string
  readonly read: () => Promise<string>
  /** What is asked for at each scrape. */
  readonly watch: (counts: () => Promise<Counts>, executors: () => readonly Executor[]) => void
  readonly predictionEnded: (end: PredictionEnd) => void
  readonly generationEnded: (end: GenerationEnd) => void
  readonly loraAcquired: (source: 'disk' | 'network', seconds: number) => void
  readonly webhookAttempted: (outcome: 'arrived' | 'postponed' | 'given up') => void
  readonly engineRestarted: () => void
  readonly imageFlagged: () => void
}

// From an image of the embedded model to fifty steps of dev on a slow card.
const secondsBuckets = [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300]
const stepBuckets = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5]

/** Metrics in a registry of their own, so that several servers can live in one process. */
export function createMetrics(build: { readonly version: string; readonly ort: string }): Metrics {
  const registry = new Registry()
  const registers = [registry]
  collectDefaultMetrics({ register: registry })

  const counter = <L extends string>(name: string, help: string, labelNames: readonly L[] = []) =>
    new Counter({ name: `fluxd_${name}`, help, labelNames, registers })
  const seconds = <L extends string>(
    name: string,
    help: string,
    labelNames: readonly L[] = [],
    buckets = secondsBuckets,
  ) => new Histogram({ name: `fluxd_${name}`, help, labelNames, buckets, registers })
  const gauge = (name: string, help: string, level: () => Promise<number>) =>
    new Gauge({
      name: `fluxd_${name}`,
      help,
      registers,
      async collect() {
        this.set(await level())
      },
    })

  const requests = counter('requests_total', 'Predictions that ended', ['model', 'outcome'])
  const latency = seconds('e2e_request_latency_seconds', 'From admission to the end')
  const queueTime = seconds('request_queue_time_seconds', 'From admission to the start')
  const inference = seconds('request_inference_time_seconds', 'From the start to the end')
  const images = counter('images_total', 'Images that were generated')
  const busySeconds = counter('gpu_seconds_total', 'Seconds of the device, by API key', ['key'])
  const kind = ['variant', 'precision', 'mode'] as const
  const generations = counter('generations_total', 'Generations that were done', kind)
  const step = seconds('denoise_step_seconds', 'One step of the transformer', kind, stepBuckets)
  const stage = seconds('stage_seconds', 'Stages of a generation', ['stage'])
  const lora = seconds('lora_acquire_seconds', 'Until a LoRA was on disk', ['source'])
  const webhooks = counter('webhook_deliveries_total', 'Attempts at a webhook', ['outcome'])
  const restarts = counter('worker_restarts_total', 'Deaths of the engine process')
  const flagged = counter('safety_flagged_total', 'Images that the safety checker removed')
  new Gauge({
    name: 'fluxd_build_info',
    help: 'Versions of what runs',
    labelNames: ['version', 'ort'],
    registers,
  }).set(build, 1)

  return {
    contentType: registry.contentType,
    read: () => registry.metrics(),
    watch(counts, executors) {
      gauge(
        'num_requests_running',
        'Predictions that are running',
        async () => (await counts()).running,
      )
      gauge(
        'num_requests_waiting',
        'Predictions in the queue',
        async () => (await counts()).waiting,
      )
      new Gauge({
        name: 'fluxd_executors',
        help: 'Executors, by the state of their engine',
        labelNames: ['state'],
        registers,
        collect() {
          this.reset()
          for (const { engine } of executors()) this.inc({ state: engine })
        },
      })
    },
    predictionEnded(end) {
      requests.inc({ model: end.model, outcome: end.outcome })
      if (end.totalTime !== undefined) latency.observe(end.totalTime)
      if (end.queueTime !== undefined) queueTime.observe(end.queueTime)
      if (end.predictTime !== undefined) inference.observe(end.predictTime)
      images.inc(end.images)
      busySeconds.inc({ key: end.keyId ?? 'none' }, end.predictTime ?? 0)
    },
    generationEnded({ steps, stageSeconds, ...labels }) {
      generations.inc(labels)
      step.observe(labels, (stageSeconds['denoise'] ?? 0) / Math.max(steps, 1))
      for (const [name, value] of Object.entries(stageSeconds))
        stage.observe({ stage: name }, value)
    },
    loraAcquired: (source, value) => lora.observe({ source }, value),
    webhookAttempted: (outcome) => webhooks.inc({ outcome }),
    engineRestarted: () => restarts.inc(),
    imageFlagged: () => flagged.inc(),
  }
}
