/**
 * What engines run on: chosen once at the start, refused where the machine cannot do what the
 * settings ask for, and watched while a server runs.
 */
import { FluxdError } from '../errors.js'
import { type Device, describeFinding, isMissingAddon, listProblems } from './diagnosis.js'
import { type ExaminedSettings, examine, type Target } from './examination.js'
import type { MachinePlaces } from './machine.js'

/**
 * What engines run on with these settings. Throws `engine_failed` with all problems when a GPU is
 * there or asked for but cannot work (the CPU is never a silent substitute), and when the native
 * addon is asked for but has not been built.
 */
export async function chooseTarget(
  settings: ExaminedSettings,
  places?: MachinePlaces,
): Promise<Target> {
  if (settings.device === 'cpu' && settings.backend !== 'native')
    return { device: 'cpu', backend: 'ort', memoryBytes: settings.memoryBytes, gpus: [] }
  const { findings, ...target } = await examine(settings, places)
  const missing = findings.find(isMissingAddon)
  if (missing)
    throw new FluxdError(
      'engine_failed',
      'Expected the native addon, as FLUXD_BACKEND asks for it, but found:\n' +
        describeFinding(missing),
    )
  const problems = listProblems(findings)
  if (target.device === 'cpu' || problems.length === 0) return target
  const why = settings.device === 'cuda' ? 'FLUXD_DEVICE asks for one' : 'there is one'
  throw new FluxdError(
    'engine_failed',
    `Expected the GPU to work, as ${why}, but found (FLUXD_DEVICE=cpu goes on without it):\n` +
      problems.map(describeFinding).join(''),
  )
}

export type MachineWatch = {
  /** The problems that the last examination found, one line each. */
  readonly listProblems: () => readonly string[]
  readonly stop: () => void
}

const watchIntervalMs = 30_000

/**
 * Examines the machine of a GPU every 30 s, because a driver can be lost while a server runs.
 * `onError` receives an examination that failed; the problems known before it stay.
 */
export function watchMachine(
  device: Device,
  settings: ExaminedSettings,
  onError: (error: unknown) => void,
): MachineWatch {
  let problems: readonly string[] = []
  const look = async () => {
    try {
      const { findings } = await examine(settings)
      problems = listProblems(findings).map(({ subject, detail }) => `${subject}: ${detail}`)
    } catch (error) {
      onError(error)
    }
  }
  const timer = device === 'cpu' ? undefined : setInterval(look, watchIntervalMs)
  return {
    listProblems: () => problems,
    stop() {
      clearInterval(timer)
    },
  }
}
