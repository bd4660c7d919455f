import { expect, test } from 'vitest'
import { createMetrics } from '../../src/telemetry/metrics.js'

const build = { version: '1.2.3', ort: '1.29.0' }

test('counts under the names that dashboards know', async () => {
  const metrics = createMetrics(build)
  let waiting = 3
  metrics.watch(
    async () => ({ running: 1, waiting }),
    () => [{ engine: 'busy' }],
  )
  metrics.predictionEnded({
    model: 'fofr/shxdo-v2',
    outcome: 'succeeded',
    keyId: 'k1',
    queueTime: 0.2,
    predictTime: 2,
    totalTime: 2.2,
    images: 2,
  })
  metrics.predictionEnded({
    model: 'fofr/shxdo-v2',
    outcome: 'failed',
    keyId: undefined,
    images: 0,
  })
  metrics.generationEnded({
    variant: 'dev',
    precision: 'fp8',
    mode: 'noise',
    steps: 2,
    stageSeconds: { denoise: 1, decode: 0.3 },
  })
  metrics.loraAcquired('network', 1.5)
  metrics.webhookAttempted('postponed')
  metrics.engineRestarted()
  metrics.imageFlagged()
  waiting = 4
  const text = await metrics.read()
  for (const line of [
    'fluxd_num_requests_running 1',
    'fluxd_num_requests_waiting 4',
    'fluxd_requests_total{model="fofr/shxdo-v2",outcome="succeeded"} 1',
    'fluxd_requests_total{model="fofr/shxdo-v2",outcome="failed"} 1',
    'fluxd_e2e_request_latency_seconds_sum 2.2',
    'fluxd_images_total 2',
    'fluxd_gpu_seconds_total{key="k1"} 2',
    'fluxd_stage_seconds_sum{stage="decode"} 0.3',
    'fluxd_webhook_deliveries_total{outcome="postponed"} 1',
    'fluxd_worker_restarts_total 1',
    'fluxd_safety_flagged_total 1',
    'fluxd_build_info{version="1.2.3",ort="1.29.0"} 1',
  ])
    expect(text.split('\n')).toContain(line)
  expect(text).toMatch(/fluxd_denoise_step_seconds_sum\{.*precision="fp8".*\} 0\.5/)
})

test('two servers in one process count on their own', async () => {
  const [one, other] = [createMetrics(build), createMetrics(build)]
  one.engineRestarted()
  expect(await other.read()).toContain('fluxd_worker_restarts_total 0')
})
