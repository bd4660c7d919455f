import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { expect, test } from 'vitest'
import { createTracing } from '../../src/telemetry/tracing.js'

type Span = {
  readonly name: string
  readonly traceId: string
  readonly spanId: string
  readonly parentSpanId?: string
  readonly startTimeUnixNano: string
  readonly endTimeUnixNano: string
}

/** A collector that understands OTLP in JSON. */
async function startCollector() {
  const bodies: string[] = []
  const server = createServer(async (request, response) => {
    let body = ''
    for await (const chunk of request) body += chunk
    bodies.push(body)
    response.writeHead(200, { 'content-type': 'application/json' }).end('{}')
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1/traces`,
    spans: (): Span[] =>
      bodies.flatMap((body) => JSON.parse(body).resourceSpans[0].scopeSpans[0].spans),
    text: () => bodies.join(),
    close: () => server.close(),
  }
}

test('a prediction is part of its caller’s trace', async () => {
  const collector = await startCollector()
  const tracing = createTracing(collector.url, '1.2.3')
  const prediction = {
    id: 'abc',
    model: 'fofr/shxdo-v2',
    status: 'succeeded',
    createdAt: new Date(1000),
    startedAt: new Date(3000),
    completedAt: new Date(7000),
  }
  const traceId = '0af7651916cd43dd8448eb211c80319c'
  tracing.predictionEnded(prediction, `00-${traceId}-b7ad6b7169203331-01`)
  await tracing.stop()
  collector.close()
  const spans = collector.spans()
  const find = (name: string) => spans.find((span) => span.name === name)!
  expect(find('prediction')).toMatchObject({ traceId, parentSpanId: 'b7ad6b7169203331' })
  for (const name of ['queue.wait', 'generate'])
    expect(find(name)).toMatchObject({ traceId, parentSpanId: find('prediction').spanId })
  expect(Number(find('queue.wait').endTimeUnixNano) / 1e6).toBe(3000)
  expect(Number(find('generate').endTimeUnixNano) / 1e6).toBe(7000)
  expect(collector.text()).toContain('image_generation')
})

test('a prediction without a caller’s trace begins one of its own', async () => {
  const collector = await startCollector()
  const tracing = createTracing(collector.url, '1.2.3')
  tracing.predictionEnded({ id: 'a', model: 'm/m', status: 'canceled', createdAt: new Date(1000) })
  await tracing.stop()
  collector.close()
  expect(
    collector
      .spans()
      .map(({ name }) => name)
      .sort(),
  ).toEqual(['prediction', 'queue.wait'])
})

test('a header that is none is not a parent', async () => {
  const collector = await startCollector()
  const tracing = createTracing(collector.url, '1.2.3')
  tracing.predictionEnded(
    { id: 'a', model: 'm/m', status: 'failed', error: 'x', createdAt: new Date(1000) },
    'rubbish',
  )
  await tracing.stop()
  collector.close()
  expect(collector.spans().find(({ name }) => name === 'prediction')!.parentSpanId).toBeFalsy()
})
