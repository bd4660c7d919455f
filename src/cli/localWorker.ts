/** The worker of a server's own process. */
import type { Config } from '../config/config.js'
import { withLocalFiles } from '../files/localFiles.js'
import type { WorkerPort } from '../predictions/workerPort.js'
import type { Services } from '../server/context.js'
import type { Metrics } from '../telemetry/metrics.js'
import { startWorker, type WorkerOptions } from '../worker/worker.js'

/** A worker over `engines` that shares the services of a server, set up as `config` says. */
export const startLocalWorker = (
  engines: WorkerOptions['engines'],
  { store, library, media, files }: Services,
  config: Config,
  metrics: Metrics,
  onFault: WorkerOptions['onFault'],
): WorkerPort =>
  startWorker({
    engines,
    store,
    loras: library,
    media: withLocalFiles(media, files),
    files,
    settings: {
      noise: config.noise,
      goFastLoraMultiplier: config.goFastLoraMultiplier,
      safetyChecker: config.safetyModel !== undefined,
    },
    metrics,
    patienceMs: 1000 * config.loraPatienceSeconds,
    onFault,
  })
