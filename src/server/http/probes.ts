/** What an orchestrator asks: is the process alive, and may it be sent predictions. */
import { mkdir, writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import type { FastifyInstance } from 'fastify'
import { z } from 'zod'
import { combineStatus, type WorkerPort } from '../../predictions/workerPort.js'
import type { Metrics } from '../../telemetry/metrics.js'
import type { Predictions } from '../predictions/service.js'
import type { Setup } from '../predictions/warmup.js'

export type ProbedServices = {
  readonly worker: Pick<WorkerPort, 'executors'>
  readonly setup: () => Setup
  readonly predictions: Pick<Predictions, 'refusal'>
  /** What is wrong with the machine now. */
  readonly listProblems: () => readonly string[]
}

const State = z.object({ status: z.string() })

export function probeRoutes(app: FastifyInstance, services: ProbedServices): void {
  const config = { access: 'public' } as const

  app.get(
    '/livez',
    { config, schema: { summary: 'Whether the process is alive', replies: { 200: State } } },
    () => ({ status: 'alive' }),
  )

  app.get(
    '/readyz',
    {
      config,
      schema: {
        summary: 'Whether it takes predictions now, or why not',
        replies: { 200: State, 503: State.extend({ reasons: z.array(z.string()) }) },
      },
    },
    async (_request, reply) => {
      const reasons = await listReasons(services)
      return reply
        .code(reasons.length === 0 ? 200 : 503)
        .send(reasons.length === 0 ? { status: 'ready' } : { status: 'not ready', reasons })
    },
  )
}

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

/** Why predictions should go elsewhere now. */
async function listReasons(services: ProbedServices): Promise<string[]> {
  const executors = services.worker.executors()
  const engine = combineStatus(executors)
  const setup = services.setup().status
  const reasons = [
    engine === 'ready' || engine === 'busy' ? undefined : `the engine is ${engine}`,
    setup === 'succeeded' ? undefined : `setup has ${describeSetup[setup]}`,
    await services.predictions.refusal(),
    ...services.listProblems(),
  ]
  return reasons.filter((reason) => reason !== undefined)
}

const describeSetup = { starting: 'not finished', failed: 'failed' } as const

/**
 * Makes the file, empty, that Kubernetes looks for in a Cog container (C-2.2).
 */
export async function touchReadyFile(path: string): Promise<void> {
  await mkdir(dirname(path), { recursive: true })
  await writeFile(path, '')
}
