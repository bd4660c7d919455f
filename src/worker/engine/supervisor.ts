/**
 * Keeps one engine process running: whenever it ends, another one is started, a little later each
 * time. A process that keeps dying before it is ready is started again once a minute.
 */
import type { Logger } from 'pino'
import type { EngineCommand, EngineConfig, EngineEvent } from '../../engine/protocol.js'
import { FluxdError } from '../../errors.js'
import { type EngineProcess, type Environment, startProcess } from './process.js'

export type Supervisor = {
  /** `failing`: it does not start, and is tried again from time to time. */
  readonly status: () => 'starting' | 'ready' | 'restarting' | 'failing' | 'stopped'
  /** The process that runs now; another one after a restart. */
  readonly pid: () => number | undefined
  readonly send: (command: EngineCommand) => void
  /**
   * Resolves when there is a process that takes commands. Throws `not_ready` when none starts, or
   * none will any more.
   */
  readonly ready: () => Promise<void>
  /** Ends a process that does not answer; another one is started. */
  readonly replace: (reason: string) => void
  readonly stop: () => Promise<void>
}

export type SupervisorHandlers = {
  /** What a process says that is not about itself. */
  readonly onEvent: (event: EngineEvent) => void
  /** The process is gone; `reason` completes the sentence "the engine process …". */
  readonly onDeath: (reason: string) => void
}

const firstRestartMs = 100
// A process that keeps dying before it is ready will hardly do better the next time.
const maxQuickStarts = 5
const slowRestartMs = 60_000

/** Starts an engine process and keeps it running until `stop`. */
export function superviseProcess(
  config: EngineConfig,
  logger: Logger,
  handlers: SupervisorHandlers,
  environment?: Environment,
): Supervisor {
  let status: ReturnType<Supervisor['status']> = 'starting'
  let failedStarts = 0
  /** What a process said before it ended itself. */
  let lostBecause: string | undefined
  let ready = waitForReady()
  let child = start()

  function start(): EngineProcess {
    return startProcess(config, { onEvent, onExit }, environment)
  }

  function onEvent(event: EngineEvent) {
    if (event.kind === 'warning') return logger.warn(event.message)
    if (event.kind === 'deviceLost') lostBecause = event.reason
    if (event.kind !== 'ready') return handlers.onEvent(event)
    if (status === 'stopped') return
    status = 'ready'
    failedStarts = 0
    ready.resolve()
  }

  function onExit(end: string) {
    const reason = lostBecause ?? end
    lostBecause = undefined
    handlers.onDeath(reason)
    if (status === 'stopped') return
    logger.error({ reason }, 'the engine process is gone')
    if (failedStarts++ >= maxQuickStarts) return startSlowly(reason)
    // What waits for a process that never became ready goes on waiting for the next one.
    if (status === 'ready') ready = waitForReady()
    status = 'restarting'
    setTimeout(restart, firstRestartMs * 2 ** failedStarts)
  }

  function restart() {
    if (status !== 'stopped') child = start()
  }

  function startSlowly(reason: string) {
    status = 'failing'
    ready.reject(new FluxdError('not_ready', `The engine process does not start: it ${reason}`))
    ready = waitForReady()
    setTimeout(restart, slowRestartMs).unref()
  }

  function throwIfStopped() {
    if (status === 'stopped') throw new FluxdError('not_ready', 'The engine is stopped')
  }

  return {
    status: () => status,
    pid: () => child.pid,
    send: (command) => child.send(command),
    replace(reason) {
      lostBecause = reason
      child.kill()
    },
    async ready() {
      if (status === 'failing')
        throw new FluxdError('not_ready', 'The engine process does not start')
      throwIfStopped()
      await ready.promise
      throwIfStopped()
    },
    async stop() {
      status = 'stopped'
      ready.resolve()
      await child.stop()
    },
  }
}

/** A promise that is settled from outside; it may have no waiter. */
function waitForReady() {
  let resolve = () => {}
  let reject = (_: Error) => {}
  const promise = new Promise<void>((onReady, onFailure) => {
    resolve = onReady
    reject = onFailure
  })
  promise.catch(() => {})
  return { promise, resolve, reject }
}
