import type { FastifyInstance } from 'fastify'
import { HealthCheck, type HealthStatus } from '../../../contract/health.js'
import {
  combineStatus,
  type EngineStatus,
  type WorkerPort,
} from '../../../predictions/workerPort.js'
import type { Setup } from '../../predictions/warmup.js'

const statusOfEngine: Readonly<Record<EngineStatus, HealthStatus>> = {
  starting: 'STARTING',
  restarting: 'STARTING',
  ready: 'READY',
  busy: 'BUSY',
  failing: 'DEFUNCT',
  stopped: 'DEFUNCT',
}

/** `GET /health-check` answers 200 whatever the state is; the state is in the body. */
export function healthRoutes(
  app: FastifyInstance,
  worker: Pick<WorkerPort, 'executors'>,
  setup: () => Setup,
): void {
  app.get(
    '/health-check',
    {
      config: { access: 'public' },
      schema: { summary: 'Whether the model is loaded', replies: { 200: HealthCheck } },
    },
    () => describeHealth(combineStatus(worker.executors()), setup()),
  )
}

const describeHealth = (engine: EngineStatus, setup: Setup): HealthCheck => ({
  status: chooseStatus(engine, setup),
  setup: {
    started_at: setup.startedAt.toISOString(),
    ...(setup.completedAt && { completed_at: setup.completedAt.toISOString() }),
    status: setup.status,
    logs: setup.logs,
  },
  safety_checker: setup.safetyChecker ? 'installed' : 'none',
})

/** A dead engine outweighs how its setup went. */
function chooseStatus(engine: EngineStatus, setup: Setup): HealthStatus {
  if (engine === 'stopped' || engine === 'failing') return 'DEFUNCT'
  if (setup.status === 'failed') return 'SETUP_FAILED'
  if (setup.status === 'starting') return 'STARTING'
  return statusOfEngine[engine]
}
