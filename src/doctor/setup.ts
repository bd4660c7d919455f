/**
 * The doctor's view of what is configured: settings, data folder, store, port, keys and
 * checkpoints, each looked at without changing it. The machine itself is in diagnosis.ts.
 */
import { accessSync, constants, existsSync } from 'node:fs'
import { createServer } from 'node:net'
import { dirname, join } from 'node:path'
import { openCheckpoint } from '../engine/checkpoint/checkpoint.js'
import { openSafetyModel } from '../engine/checkpoint/safety.js'
import { codeOf, hasCode } from '../errors.js'
import { inspectStore, type StoreInspection } from '../store/sqlite/inspection.js'
import type { Finding } from './diagnosis.js'

/** The settings that are examined; a `Config` is one, apart from `isLoopback`. */
export type Setup = {
  readonly host: string
  /** Whether only this machine can reach `host`. */
  readonly isLoopback: boolean
  readonly port: number
  readonly dataDir: string
  readonly checkpoints: { readonly dev: string; readonly schnell: string }
  readonly safetyModel: string | undefined
  readonly apiKey: unknown
  readonly warnings: readonly string[]
  /** The folder of the embedded models. */
  readonly embedded: string
}

/** The findings about `setup`. */
export async function examineSetup(setup: Setup): Promise<Finding[]> {
  const store = inspectStore(join(setup.dataDir, 'fluxd.sqlite'))
  return [
    ...setup.warnings.map(toWarning),
    checkFolder(setup.dataDir),
    checkStore(store),
    await checkPort(setup.host, setup.port),
    checkKeys(setup, store),
    checkModel('dev', setup.checkpoints.dev, setup.embedded),
    checkModel('schnell', setup.checkpoints.schnell, setup.embedded),
    checkSafety(setup.safetyModel),
  ]
}

const toWarning = (detail: string): Finding => ({ subject: 'settings', verdict: 'warning', detail })

/** A folder that is missing is made by the first start, if the nearest existing one allows it. */
function checkFolder(dataDir: string): Finding {
  const subject = 'data folder'
  const nearest = findExisting(dataDir)
  try {
    accessSync(nearest, constants.W_OK | constants.X_OK)
  } catch (error) {
    return {
      subject,
      verdict: 'problem',
      detail: `${nearest} cannot be written into (${codeOf(error)})`,
      fix: 'Give it to the user that runs fluxd, or set FLUXD_DATA_DIR to another folder',
    }
  }
  const detail = nearest === dataDir ? dataDir : `${dataDir}, which the first start makes`
  return { subject, verdict: 'ok', detail }
}

const findExisting = (folder: string): string =>
  existsSync(folder) || dirname(folder) === folder ? folder : findExisting(dirname(folder))

function checkStore(store: StoreInspection): Finding {
  const subject = 'store'
  switch (store.kind) {
    case 'sound':
      return { subject, verdict: 'ok', detail: 'sound' }
    case 'missing':
      return { subject, verdict: 'ok', detail: 'none yet; the first start makes it' }
    case 'damaged':
      return {
        subject,
        verdict: 'problem',
        detail: `damaged or not readable (${store.reason})`,
        fix: 'Restore a copy of fluxd.sqlite, or move it away to begin with an empty one',
      }
    case 'unavailable':
      return {
        subject,
        verdict: 'problem',
        detail: `better-sqlite3 has not been built (${store.reason})`,
        fix:
          'npm rebuild better-sqlite3; where npm blocks install scripts, ' +
          'first: npm install-scripts approve better-sqlite3',
      }
    default:
      return store satisfies never
  }
}

async function checkPort(host: string, port: number): Promise<Finding> {
  const subject = 'port'
  const place = `${port} of ${host}`
  if (port === 0) return { subject, verdict: 'ok', detail: 'any free one' }
  try {
    await tryListening(host, port)
    return { subject, verdict: 'ok', detail: `${place} is free` }
  } catch (error) {
    if (hasCode(error, 'EADDRINUSE')) return describeOccupied(host, port)
    const fix = hasCode(error, 'EACCES')
      ? 'Set FLUXD_PORT to 1024 or more'
      : 'Set FLUXD_HOST to an address of this machine, or to 0.0.0.0'
    const detail = `fluxd cannot listen on ${place} (${codeOf(error)})`
    return { subject, verdict: 'problem', detail, fix }
  }
}

/** The program that listens may be the fluxd that is asked about. */
async function describeOccupied(host: string, port: number): Promise<Finding> {
  const subject = 'port'
  const place = `${port} of ${host}`
  if (await isFluxd(port)) return { subject, verdict: 'ok', detail: `a fluxd listens on ${place}` }
  return {
    subject,
    verdict: 'problem',
    detail: `another program listens on ${place}`,
    fix: 'End it, or set FLUXD_PORT to another port',
  }
}

async function isFluxd(port: number): Promise<boolean> {
  try {
    const signal = AbortSignal.timeout(2000)
    const reply = await fetch(`http://127.0.0.1:${port}/health-check`, { signal })
    const body: unknown = await reply.json()
    return typeof body === 'object' && body !== null && 'safety_checker' in body
  } catch {
    // Whatever does not answer as fluxd does is another program.
    return false
  }
}

const tryListening = (host: string, port: number) =>
  new Promise<void>((resolve, reject) => {
    const server = createServer()
    server.once('error', reject)
    server.listen({ host, port, exclusive: true }, () => server.close(() => resolve()))
  })

function checkKeys({ host, isLoopback, apiKey }: Setup, store: StoreInspection): Finding {
  const subject = 'API keys'
  const stored = store.kind === 'sound' ? store.keys : 0
  const kinds = [
    ...(stored > 0 ? [`${stored} in the store`] : []),
    ...(apiKey === undefined ? [] : ['FLUXD_API_KEY']),
  ]
  if (kinds.length > 0) return { subject, verdict: 'ok', detail: kinds.join(' and ') }
  if (isLoopback)
    return { subject, verdict: 'ok', detail: 'none, so only this machine may use the server' }
  return {
    subject,
    verdict: 'warning',
    detail: `none, so the server listens on 127.0.0.1, not on ${host}`,
    fix: 'fluxd keys add NAME',
  }
}

/** Opens the checkpoint's headers and configs; weights are not read. */
function checkModel(model: 'dev' | 'schnell', path: string, embedded: string): Finding {
  const subject = `model ${model}`
  try {
    const { guidance } = openCheckpoint(path).transformer.params
    if (path.startsWith(embedded))
      return {
        subject,
        verdict: 'ok',
        detail: `embedded, for simple shapes only; fluxd pull ${model} downloads FLUX.1`,
      }
    if (guidance === (model === 'dev')) return { subject, verdict: 'ok', detail: path }
    return {
      subject,
      verdict: 'warning',
      detail: `${path} is a checkpoint of ${guidance ? 'dev' : 'schnell'}`,
      fix: `Set FLUXD_CHECKPOINT_${model.toUpperCase()} to one of ${model}`,
    }
  } catch (error) {
    return {
      subject,
      verdict: 'problem',
      detail: error instanceof Error ? error.message : String(error),
      fix: `Set FLUXD_CHECKPOINT_${model.toUpperCase()}, or run: fluxd pull ${model}`,
    }
  }
}

function checkSafety(folder: string | undefined): Finding {
  const subject = 'safety checker'
  if (folder === undefined) return { subject, verdict: 'ok', detail: 'none: nothing is checked' }
  try {
    openSafetyModel(folder)
    return { subject, verdict: 'ok', detail: folder }
  } catch (error) {
    return {
      subject,
      verdict: 'problem',
      detail: error instanceof Error ? error.message : String(error),
      fix: 'Set FLUXD_SAFETY_MODEL to a folder with safety_checker/ and nsfw_classifier/',
    }
  }
}
