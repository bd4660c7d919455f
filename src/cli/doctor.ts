/** `fluxd doctor`: what is right and wrong with this machine, and how to put it right. */
import type { Config } from '../config/config.js'
import {
  type BackendKind,
  chooseBackend,
  chooseDevice,
  type Device,
  describeFinding,
  diagnose,
  type Finding,
  freeMemory,
  isMissingAddon,
  listProblems,
} from '../doctor/diagnosis.js'
import { freeDiskBytes, inspectMachine, type MachinePlaces } from '../doctor/machine.js'
import { measureCheckpoint } from '../doctor/weights.js'
import { FluxdError } from '../errors.js'

type DoctorContext = {
  readonly config: Config
  readonly stdout: NodeJS.WritableStream
  readonly places?: MachinePlaces
}

/** Prints a line for each finding and returns whether the server can work as configured. */
export async function runDoctor({ config, stdout, places }: DoctorContext): Promise<boolean> {
  const { findings } = await examine(config, places)
  stdout.write(findings.map(describeFinding).join(''))
  return listProblems(findings).length === 0
}

/** What the engines run on, who runs the networks there, and what these may fill of its memory. */
export type Target = {
  readonly device: Device
  readonly backend: BackendKind
  readonly memoryBytes: number | undefined
  /** The GPUs of this machine, by CUDA's index. */
  readonly gpus: readonly number[]
}

/**
 * What the engines are to run on. Throws `engine_failed` with all that is wrong where that is a GPU
 * that cannot work, which never becomes the CPU unasked, or the native addon, which is not built.
 */
export async function chooseTarget(config: Config, places?: MachinePlaces): Promise<Target> {
  if (config.device === 'cpu' && config.backend !== 'native')
    return { device: 'cpu', backend: 'ort', memoryBytes: config.memoryBytes, gpus: [] }
  const { findings, ...target } = await examine(config, places)
  const missing = findings.find(isMissingAddon)
  if (missing)
    throw new FluxdError(
      'engine_failed',
      `Expected the native addon, as FLUXD_BACKEND asks for it, but found:\n${describeFinding(missing)}`,
    )
  const problems = listProblems(findings)
  if (target.device === 'cpu' || problems.length === 0) return target
  const why = config.device === 'cuda' ? 'FLUXD_DEVICE asks for one' : 'there is one'
  throw new FluxdError(
    'engine_failed',
    `Expected the GPU to work, as ${why}, but found (FLUXD_DEVICE=cpu goes on without it):\n${problems.map(describeFinding).join('')}`,
  )
}

const watchIntervalMs = 30_000

/** Looks at a GPU's machine again and again: a driver may be lost while a server runs. */
export function watchMachine(
  device: Device,
  config: Config,
): { readonly listProblems: () => readonly string[]; readonly stop: () => void } {
  let problems: readonly string[] = []
  const look = async () => {
    const { findings } = await examine(config)
    problems = listProblems(findings).map(({ subject, detail }) => `${subject}: ${detail}`)
  }
  const timer = device === 'cpu' ? undefined : setInterval(() => void look(), watchIntervalMs)
  return { listProblems: () => problems, stop: () => clearInterval(timer) }
}

/** What is found on this machine with these settings, and what they mean on it. */
export async function examine(
  config: Config,
  places: MachinePlaces = { libraryPath: config.libraryPath },
): Promise<Target & { readonly findings: readonly Finding[] }> {
  const { checkpoints, dataDir, hosts } = config
  const machine = await inspectMachine(places)
  const findings = diagnose({
    machine,
    ...{ device: config.device, backend: config.backend },
    modelBytes: {
      dev: await measureCheckpoint(checkpoints.dev),
      schnell: await measureCheckpoint(checkpoints.schnell),
    },
    dataDir,
    freeDiskBytes: await freeDiskBytes(dataDir),
    hasHubToken: hosts.huggingFace.token !== undefined,
  })
  const device = chooseDevice(config.device, machine)
  return {
    ...{ device, backend: chooseBackend(config.backend, device, machine), findings },
    memoryBytes: config.memoryBytes ?? (device === 'cuda' ? freeMemory(machine) : undefined),
    gpus: device === 'cuda' ? machine.gpus.map((_, index) => index) : [],
  }
}
