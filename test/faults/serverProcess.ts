/** A real server with its real engine, as processes that can be killed. */
import { type ChildProcess, spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'

export type ServerProcess = {
  /** Where it listens. */
  readonly origin: string
  /** Ends it without a word; resolves when it is gone. Its engine goes with it. */
  readonly kill: () => Promise<void>
  /** Ends its engine without a word; false when there is none at the moment. */
  readonly killEngine: () => boolean
  /** As SIGTERM asks for. */
  readonly stop: () => Promise<void>
}

const root = join(import.meta.dirname, '../..')

/** Starts a server with the embedded model on `dataDir`; resolves when it listens. */
export async function startServer(
  dataDir: string,
  environment: Readonly<Record<string, string>> = {},
): Promise<ServerProcess> {
  const child = spawn('node', ['--import', 'tsx', 'src/main.ts', 'serve'], {
    cwd: root,
    stdio: ['ignore', 'pipe', 'inherit'],
    env: {
      ...process.env,
      FLUXD_DATA_DIR: dataDir,
      FLUXD_PORT: '0',
      FLUXD_LOG_LEVEL: 'silent',
      FLUXD_THREADS: '1',
      ...environment,
    },
  })
  const gone = new Promise<void>((resolve) => child.once('exit', () => resolve()))
  const end = (signal: NodeJS.Signals) => {
    child.kill(signal)
    return gone
  }
  return {
    origin: await readOrigin(child),
    kill: () => end('SIGKILL'),
    killEngine: () => killChild(child.pid!, 'engine/worker'),
    stop: () => end('SIGTERM'),
  }
}

async function readOrigin(child: ChildProcess): Promise<string> {
  for await (const line of createInterface(child.stdout!)) {
    const origin = /listens on (http:\S+)/.exec(line)?.[1]
    if (origin !== undefined) return origin
  }
  throw new Error(`the server ended with ${child.exitCode ?? child.signalCode}`)
}

/** Kills the child of `parent` whose command line has `name` in it. */
function killChild(parent: number, name: string): boolean {
  const children = readFileSync(`/proc/${parent}/task/${parent}/children`, 'utf8').trim().split(' ')
  const pid = children.find((child) => child !== '' && commandOf(child).includes(name))
  if (pid === undefined) return false
  process.kill(Number(pid), 'SIGKILL')
  return true
}

function commandOf(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8')
  } catch {
    return ''
  }
}
