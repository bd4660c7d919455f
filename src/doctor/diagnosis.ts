/**
 * What keeps this machine from generating images, each with its fix. Pure: facts about the machine
 * and the settings go in, findings come out; examination.ts collects the facts.
 */
import { type CudaLibrary, cudaLibraries, type Machine } from './machine.js'

export type Device = 'cpu' | 'cuda'
/** `auto` is the GPU where there is one; a missing library does not turn it into the CPU. */
export const deviceChoices = ['auto', 'cpu', 'cuda'] as const
export type DeviceChoice = (typeof deviceChoices)[number]

/** What runs the networks: onnxruntime-node, or the native addon over the same ONNX Runtime. */
export type BackendKind = 'ort' | 'native'
/** `auto` is the native addon on a GPU, if the addon has been built with its CUDA library. */
export const backendChoices = ['auto', 'ort', 'native'] as const
export type BackendChoice = (typeof backendChoices)[number]

export type Finding = {
  readonly subject: string
  readonly verdict: 'ok' | 'warning' | 'problem'
  /** What was found, in a few words. */
  readonly detail: string
  /** What to do about it. */
  readonly fix?: string
}

export type DiagnosisInput = {
  readonly machine: Machine
  readonly device: DeviceChoice
  readonly backend: BackendChoice
  /** Bytes of weights of each model that is configured. */
  readonly modelBytes: Readonly<Record<string, number>>
  readonly dataDir: string
  readonly freeDiskBytes: number | undefined
  readonly hasHubToken: boolean
}

// CUDA 13 needs a driver of this branch; kernels are compiled for these architectures and newer.
const oldestDriver = 580
const oldestCapability = 8
// GPU memory left free of weights: for CUDA's contexts, cuBLAS, the memory that runs keep for the
// next run, activations, and the VAE decoder at 1440×1440.
const workBytes = 4 * 2 ** 30
const scarceDiskBytes = 20 * 2 ** 30

/** SHA-256 of the CUDA provider that belongs to each runtime: the two share C++ interfaces. */
const providersOf: Readonly<Record<string, string>> = {
  '1.29.0': '56cf3254b118ad837ccc4ed8f6d1b23504bbf7ef91b34cbc0b289cb7f10b3037',
}

/** The device that `choice` means on this machine. */
export const chooseDevice = (choice: DeviceChoice, { gpus, driverVersion }: Machine): Device =>
  choice === 'auto' ? (gpus.length > 0 || driverVersion ? 'cuda' : 'cpu') : choice

/** Bytes of the first GPU that networks and their runs may use; undefined without a GPU. */
export const freeMemory = ({ gpus: [gpu] }: Machine): number | undefined =>
  gpu && Math.max(0, gpu.freeBytes - workBytes)

/** The backend that `choice` means on `device`, given which addon has been built. */
export function chooseBackend(
  choice: BackendChoice,
  device: Device,
  { addon }: Machine,
): BackendKind {
  if (choice !== 'auto') return choice
  return device === 'cuda' && addon === 'cuda' ? 'native' : 'ort'
}

/** All findings; with any of verdict `problem` the server cannot generate images as configured. */
export function diagnose(input: DiagnosisInput): Finding[] {
  const device = chooseDevice(input.device, input.machine)
  return [
    checkNode(input.machine),
    { subject: 'device', verdict: 'ok', detail: describeDevice(input, device) },
    { subject: 'backend', verdict: 'ok', detail: describeBackend(input, device) },
    checkAddon(input, device),
    ...(device === 'cuda' ? checkCuda(input) : []),
    checkDisk(input),
    checkHubToken(input),
  ]
}

/** The findings that keep the server from generating images. */
export const listProblems = (findings: readonly Finding[]): Finding[] =>
  findings.filter(({ verdict }) => verdict === 'problem')

const marks = { ok: '✓', warning: '!', problem: '✗' } as const

/** A finding as text: one line, and a second one with the fix. */
export const describeFinding = ({ subject, verdict, detail, fix }: Finding) =>
  `${marks[verdict]} ${subject}: ${detail}\n${fix ? `    ${fix}\n` : ''}`

const describeDevice = ({ device }: DiagnosisInput, chosen: Device) =>
  device === 'auto' ? `${chosen}, chosen by what is here` : `${chosen}, by FLUXD_DEVICE`

const describeBackend = ({ backend, machine }: DiagnosisInput, device: Device) => {
  const reason = backend === 'auto' ? 'chosen by what is here' : 'by FLUXD_BACKEND'
  return `${chooseBackend(backend, device, machine)}, ${reason}`
}

const addonSubject = 'native addon'

/** Whether `finding` says that the addon is asked for and has not been built. */
export const isMissingAddon = ({ subject, verdict }: Finding) =>
  subject === addonSubject && verdict === 'problem'

function checkAddon({ backend, machine: { addon } }: DiagnosisInput, device: Device): Finding {
  const subject = addonSubject
  const isEnough = addon === 'cuda' || (addon === 'cpu' && device === 'cpu')
  if (isEnough) return { subject, verdict: 'ok', detail: 'built' }
  const detail = addon === 'none' ? 'not built' : 'built without its CUDA library'
  const fix =
    addon === 'none' ? 'npm run build:native' : 'Install nvcc 13, then: npm run build:native'
  if (backend === 'native') return { subject, verdict: 'problem', detail, fix }
  if (backend === 'ort' || device === 'cpu')
    return { subject, verdict: 'ok', detail: `${detail}, and not needed` }
  return { subject, verdict: 'warning', detail: `${detail}; images take longer without it`, fix }
}

function checkCuda({ machine, modelBytes }: DiagnosisInput): Finding[] {
  return [
    checkDriver(machine),
    checkGpu(machine),
    ...cudaLibraries.map((library) => checkLibrary(machine, library)),
    checkProvider(machine),
    ...Object.entries(modelBytes).map(([model, bytes]) => checkMemory(machine, model, bytes)),
  ]
}

function checkNode({ nodeVersion }: Machine): Finding {
  const [major = 0, minor = 0] = nodeVersion.split('.').map(Number)
  const ok = major > 20 || (major === 20 && minor >= 19)
  return {
    subject: 'node',
    verdict: ok ? 'ok' : 'problem',
    detail: nodeVersion,
    ...(!ok && { fix: 'Install Node 20.19 or newer' }),
  }
}

function checkDriver({ driverVersion }: Machine): Finding {
  const subject = 'driver'
  if (!driverVersion)
    return {
      subject,
      verdict: 'problem',
      detail: 'none is loaded',
      fix: 'Install NVIDIA driver 580 or newer; in a container, start it with --gpus all',
    }
  if (Number.parseInt(driverVersion, 10) < oldestDriver)
    return {
      subject,
      verdict: 'problem',
      detail: `${driverVersion}, CUDA 13 needs ${oldestDriver}`,
      fix: `Install NVIDIA driver ${oldestDriver} or newer`,
    }
  return { subject, verdict: 'ok', detail: driverVersion }
}

function checkGpu({ gpus }: Machine): Finding {
  const [gpu] = gpus
  if (!gpu)
    return {
      subject: 'gpu',
      verdict: 'problem',
      detail: 'nvidia-smi lists none',
      fix:
        'Check that nvidia-smi lists the card; in a container, set ' +
        'NVIDIA_DRIVER_CAPABILITIES=compute,utility',
    }
  const detail = `${gpu.name}, compute capability ${gpu.computeCapability}, ${gib(gpu.totalBytes)}`
  if (gpu.computeCapability >= oldestCapability) return { subject: 'gpu', verdict: 'ok', detail }
  return {
    subject: 'gpu',
    verdict: 'problem',
    detail: `${detail}; bfloat16 needs ${oldestCapability}.0`,
    fix: 'Use an Ampere card (A100, RTX 30) or newer',
  }
}

/** The package of NVIDIA's apt repository that contains each library. */
const packageOf: Readonly<Record<CudaLibrary, string>> = {
  'libcuda.so.1': 'the NVIDIA driver',
  'libcudart.so.13': 'cuda-cudart-13-0',
  'libcublas.so.13': 'libcublas-13-0',
  'libcublasLt.so.13': 'libcublas-13-0',
  'libcurand.so.10': 'libcurand-13-0',
  'libcudnn.so.9': 'libcudnn9-cuda-13',
}

function checkLibrary({ libraries }: Machine, library: CudaLibrary): Finding {
  const path = libraries.get(library)
  if (path) return { subject: library, verdict: 'ok', detail: path }
  return {
    subject: library,
    verdict: 'problem',
    detail: 'not found',
    fix: `Install ${packageOf[library]}, or add its folder to LD_LIBRARY_PATH`,
  }
}

function checkProvider({ provider, runtime: { version } }: Machine): Finding {
  const subject = 'CUDA provider'
  if (!provider)
    return {
      subject,
      verdict: 'problem',
      detail: `none beside ONNX Runtime ${version}`,
      fix:
        '(cd node_modules/onnxruntime-node && ' +
        'node script/install --onnxruntime-node-install=cuda12)',
    }
  if (provider === providersOf[version]) return { subject, verdict: 'ok', detail: version }
  return {
    subject,
    verdict: 'warning',
    detail: `not the file known to belong to ONNX Runtime ${version}`,
    fix: 'Remove it and install the one of this version; a mixed pair may crash',
  }
}

function checkMemory({ gpus: [gpu] }: Machine, model: string, bytes: number): Finding {
  const subject = `memory for ${model}`
  const needed = bytes + workBytes
  const free = gpu?.freeBytes ?? 0
  const detail = `${gib(needed)} of ${gib(free)} free`
  if (needed <= free) return { subject, verdict: 'ok', detail }
  return {
    subject,
    verdict: 'warning',
    detail,
    fix: 'Free memory on the card, or expect weights to be moved in and out of it',
  }
}

function checkDisk({ freeDiskBytes, dataDir }: DiagnosisInput): Finding {
  if (freeDiskBytes === undefined)
    return {
      subject: 'disk',
      verdict: 'warning',
      detail: `the free space for ${dataDir} is unknown`,
    }
  const detail = `${gib(freeDiskBytes)} free for ${dataDir}`
  if (freeDiskBytes >= scarceDiskBytes) return { subject: 'disk', verdict: 'ok', detail }
  return {
    subject: 'disk',
    verdict: 'warning',
    detail,
    fix: 'Free some, or set FLUXD_DATA_DIR to a larger disk: a model takes 34 GB',
  }
}

function checkHubToken({ hasHubToken }: DiagnosisInput): Finding {
  const subject = 'Hugging Face token'
  if (hasHubToken) return { subject, verdict: 'ok', detail: 'set' }
  return {
    subject,
    verdict: 'warning',
    detail: 'none',
    fix:
      'To pull dev, accept the licence at https://huggingface.co/black-forest-labs/FLUX.1-dev ' +
      'and set FLUXD_HF_TOKEN',
  }
}

const gib = (bytes: number) => `${(bytes / 2 ** 30).toFixed(1)} GiB`
