/** A worker over given engines and the services of a server, as `fluxd serve` starts one. */
import type { Config } from '../src/config/config.js'
import { withLocalFiles } from '../src/files/localFiles.js'
import type { WorkerPort } from '../src/predictions/workerPort.js'
import type { Services } from '../src/server/context.js'
import { createMetrics, type Metrics } from '../src/telemetry/metrics.js'
import type { Engine } from '../src/worker/engine/client.js'
import { startWorker } from '../src/worker/worker.js'

export function startTestWorker(
  engines: readonly Engine[],
  services: Services,
  config: Config,
): { readonly worker: WorkerPort; readonly metrics: Metrics } {
  const metrics = createMetrics({ version: '0', ort: '0' })
  const worker = startWorker({
    engines: engines.map((engine) => ({ engine })),
    store: services.store,
    loras: services.library,
    media: withLocalFiles(services.media, services.files),
    files: services.files,
    settings: {
      noise: config.noise,
      goFastLoraMultiplier: config.goFastLoraMultiplier,
      safetyChecker: config.safetyModel !== undefined,
    },
    metrics,
    patienceMs: 1000 * config.loraPatienceSeconds,
    onFault: () => {},
  })
  return { worker, metrics }
}
