/**
 * What `fluxd doctor` and the start of a server look at: the machine, the configured checkpoints
 * and the data folder, read here and judged by diagnosis.ts.
 */
import { readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import {
  type BackendChoice,
  type BackendKind,
  chooseBackend,
  chooseDevice,
  type Device,
  type DeviceChoice,
  diagnose,
  type Finding,
  freeMemory,
} from './diagnosis.js'
import { freeDiskBytes, inspectMachine, type MachinePlaces } from './machine.js'

/** The settings that a diagnosis depends on; a `Config` is one. */
export type ExaminedSettings = {
  readonly device: DeviceChoice
  readonly backend: BackendChoice
  readonly memoryBytes: number | undefined
  readonly checkpoints: { readonly dev: string; readonly schnell: string }
  readonly dataDir: string
  readonly hosts: { readonly huggingFace: { readonly token: unknown } }
  readonly libraryPath: readonly string[]
}

/** What engines run on, which backend runs their networks, and how much memory these may use. */
export type Target = {
  readonly device: Device
  readonly backend: BackendKind
  readonly memoryBytes: number | undefined
  /** The GPUs of this machine, by CUDA's index. */
  readonly gpus: readonly number[]
}

/** The findings on this machine with these settings, and the target that the settings choose. */
export async function examine(
  settings: ExaminedSettings,
  places: MachinePlaces = { libraryPath: settings.libraryPath },
): Promise<Target & { readonly findings: readonly Finding[] }> {
  const { checkpoints, dataDir, hosts } = settings
  const machine = await inspectMachine(places)
  const findings = diagnose({
    machine,
    device: settings.device,
    backend: settings.backend,
    modelBytes: {
      dev: await measureCheckpoint(checkpoints.dev),
      schnell: await measureCheckpoint(checkpoints.schnell),
    },
    dataDir,
    freeDiskBytes: await freeDiskBytes(dataDir),
    hasHubToken: hosts.huggingFace.token !== undefined,
  })
  const device = chooseDevice(settings.device, machine)
  return {
    device,
    backend: chooseBackend(settings.backend, device, machine),
    memoryBytes: settings.memoryBytes ?? (device === 'cuda' ? freeMemory(machine) : undefined),
    gpus: device === 'cuda' ? machine.gpus.map((_, index) => index) : [],
    findings,
  }
}

/** Bytes of weights at `path`: one file, or all safetensors of a folder; 0 if nothing is there. */
export async function measureCheckpoint(path: string): Promise<number> {
  const found = await stat(path).catch(() => undefined)
  if (!found) return 0
  if (!found.isDirectory()) return found.size
  const files = await readdir(path, { recursive: true })
  const sizes = files
    .filter((file) => file.endsWith('.safetensors'))
    .map(async (file) => (await stat(join(path, file))).size)
  return (await Promise.all(sizes)).reduce((sum, size) => sum + size, 0)
}
