/**
 * OpenTelemetry spans of predictions, sent when a prediction has ended: `prediction` with
 * `queue.wait` and `generate` in it. The caller's trace is continued (W3C traceparent). Spans
 * contain no prompts.
 */
import { context, ROOT_CONTEXT, SpanStatusCode, trace } from '@opentelemetry/api'
import { W3CTraceContextPropagator } from '@opentelemetry/core'
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-http'
import { resourceFromAttributes } from '@opentelemetry/resources'
import { BasicTracerProvider, BatchSpanProcessor } from '@opentelemetry/sdk-trace-base'

export type TracedPrediction = {
  readonly id: string
  readonly model: string
  readonly status: string
  readonly createdAt: Date
  readonly startedAt?: Date | undefined
  readonly completedAt?: Date | undefined
  readonly error?: string | undefined
}

export type Tracing = {
  /** `traceparent` is the header of the request that created the prediction. */
  readonly predictionEnded: (prediction: TracedPrediction, traceparent?: string) => void
  /** Sends the spans that are still buffered. */
  readonly stop: () => Promise<void>
}

/** Sends spans to an OTLP collector at `url`, such as http://collector:4318/v1/traces. */
export function createTracing(url: string, version: string): Tracing {
  const provider = new BasicTracerProvider({
    resource: resourceFromAttributes({ 'service.name': 'fluxd', 'service.version': version }),
    spanProcessors: [new BatchSpanProcessor(new OTLPTraceExporter({ url }))],
  })
  const tracer = provider.getTracer('fluxd', version)

  function predictionEnded(prediction: TracedPrediction, traceparent?: string): void {
    const { createdAt, startedAt, completedAt = new Date() } = prediction
    const span = tracer.startSpan(
      'prediction',
      {
        startTime: createdAt,
        attributes: {
          'gen_ai.operation.name': 'image_generation',
          'gen_ai.request.model': prediction.model,
          'fluxd.prediction.id': prediction.id,
          'fluxd.prediction.status': prediction.status,
        },
      },
      parentOf(traceparent),
    )
    const inside = trace.setSpan(ROOT_CONTEXT, span)
    const addSpan = (name: string, from: Date, to: Date) =>
      tracer.startSpan(name, { startTime: from }, inside).end(to)
    addSpan('queue.wait', createdAt, startedAt ?? completedAt)
    if (startedAt) addSpan('generate', startedAt, completedAt)
    if (prediction.status === 'failed')
      span.setStatus({ code: SpanStatusCode.ERROR, message: prediction.error ?? '' })
    span.end(completedAt)
  }

  return { predictionEnded, stop: () => provider.shutdown() }
}

const propagator = new W3CTraceContextPropagator()

const parentOf = (traceparent: string | undefined) =>
  traceparent === undefined
    ? context.active()
    : propagator.extract(
        ROOT_CONTEXT,
        { traceparent },
        { get: (carrier, key) => (carrier as Record<string, string>)[key], keys: Object.keys },
      )
