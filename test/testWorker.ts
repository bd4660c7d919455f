/** A worker over given engines and the services of a server, as `fluxd serve` starts one. */
import { startLocalWorker } from '../src/cli/localWorker.js'
import type { Config } from '../src/config/config.js'
import type { WorkerPort } from '../src/predictions/workerPort.js'
import type { Services } from '../src/server/context.js'
import { createMetrics, type Metrics } from '../src/telemetry/metrics.js'
import type { Engine } from '../src/worker/engine/client.js'

export function startTestWorker(
  engines: readonly Engine[],
  services: Services,
  config: Config,
): { readonly worker: WorkerPort; readonly metrics: Metrics } {
  const metrics = createMetrics({ version: '0', ort: '0' })
  const executors = engines.map((engine) => ({ engine }))
  return { worker: startLocalWorker(executors, services, config, metrics, () => {}), metrics }
}
