/** One engine process and the typed channel to it. */
import { type ChildProcess, fork } from 'node:child_process'
import { constants, setPriority } from 'node:os'
import { extname } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { EngineCommand, EngineConfig, EngineEvent } from '../../engine/protocol.js'

export type EngineProcess = {
  readonly pid: number | undefined
  readonly send: (command: EngineCommand) => void
  /** Ends it at once; a process that hangs does not answer anything else. */
  readonly kill: () => void
  /** Ends the process: asks first, kills what does not answer. Resolves when it is gone. */
  readonly stop: () => Promise<void>
}

export type Environment = Readonly<Record<string, string>>

export type ProcessHandlers = {
  readonly onEvent: (event: EngineEvent) => void
  /** The process is gone; `reason` completes the sentence "the engine process …". */
  readonly onExit: (reason: string) => void
}

const stopTimeoutMs = 5000

/** Starts an engine process, with this process's environment where none is given. */
export function startProcess(
  config: EngineConfig,
  handlers: ProcessHandlers,
  environment?: Environment,
): EngineProcess {
  const child = forkWorker(config, environment)
  // An engine uses every core it gets; this process must still answer at once.
  if (child.pid !== undefined) setPriority(child.pid, constants.priority.PRIORITY_BELOW_NORMAL)
  child.on('message', (event: EngineEvent) => handlers.onEvent(event))
  const gone = new Promise<void>((resolve) => {
    function end(reason: string) {
      handlers.onExit(reason)
      resolve()
    }
    child.once('exit', (code, signal) =>
      end(signal ? `was killed by ${signal}` : `ended with exit code ${code}`),
    )
    child.on('error', (error) => {
      // A process that could not be spawned has no exit.
      if (child.pid === undefined) end(`could not be started (${error.message})`)
      else child.kill('SIGKILL')
    })
  })

  return {
    pid: child.pid,
    send(command) {
      // A process that is going down no longer reads; its exit ends what the caller waits for.
      if (child.connected) child.send(command, () => {})
    },
    kill: () => {
      child.kill('SIGKILL')
    },
    async stop() {
      if (child.connected) child.send({ kind: 'shutdown' } satisfies EngineCommand, () => {})
      const timer = setTimeout(() => child.kill('SIGKILL'), stopTimeoutMs)
      await gone
      clearTimeout(timer)
    },
  }
}

function forkWorker(config: EngineConfig, environment?: Environment): ChildProcess {
  const here = fileURLToPath(import.meta.url)
  // Run from source (tests, development) the worker is TypeScript too.
  const extension = extname(here)
  return fork(
    new URL(`../../engine/worker${extension}`, import.meta.url),
    [JSON.stringify(config)],
    {
      serialization: 'advanced',
      execArgv: extension === '.ts' ? ['--import', 'tsx'] : [],
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
      ...(environment && { env: environment }),
    },
  )
}
