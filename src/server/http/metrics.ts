import type { FastifyInstance } from 'fastify'
import type { Metrics } from '../../telemetry/metrics.js'

/** `GET /metrics` in Prometheus' text format. */
export function metricsRoutes(app: FastifyInstance, metrics: Metrics): void {
  app.get(
    '/metrics',
    {
      config: { access: 'metrics' },
      schema: { summary: 'Prometheus’ metrics (scope metrics)', replies: { 200: 'text/plain' } },
    },
    async (_request, reply) => reply.type(metrics.contentType).send(await metrics.read()),
  )
}
