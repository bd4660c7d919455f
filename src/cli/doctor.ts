/** `fluxd doctor`: what is right and wrong with this machine, and how to put it right. */
import type { Config } from '../config.js'
import {
  chooseDevice,
  type Device,
  describeFinding,
  diagnose,
  type Finding,
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

/**
 * What the engines are to run on. Throws `engine_failed` with all that is wrong where that is a GPU
 * that cannot work: it never becomes the CPU unasked.
 */
export async function chooseEngineDevice(config: Config, places?: MachinePlaces): Promise<Device> {
  if (config.device === 'cpu') return 'cpu'
  const { device, findings } = await examine(config, places)
  const problems = listProblems(findings)
  if (device === 'cpu' || problems.length === 0) return device
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

/** What is found on this machine with these settings, and the device that they mean on it. */
export async function examine(
  config: Config,
  places: MachinePlaces = { libraryPath: config.libraryPath },
): Promise<{ readonly device: Device; readonly findings: readonly Finding[] }> {
  const { checkpoints, dataDir, device, hosts } = config
  const machine = await inspectMachine(places)
  const findings = diagnose({
    machine,
    device,
    modelBytes: {
      dev: await measureCheckpoint(checkpoints.dev),
      schnell: await measureCheckpoint(checkpoints.schnell),
    },
    dataDir,
    freeDiskBytes: await freeDiskBytes(dataDir),
    hasHubToken: hosts.huggingFace.token !== undefined,
  })
  return { device: chooseDevice(device, machine), findings }
}
