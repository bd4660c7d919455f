/**
 * The parts of this machine that generating on a GPU depends on, found without opening the GPU or
 * loading ONNX Runtime.
 */
import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { createReadStream, existsSync } from 'node:fs'
import { readdir, readFile, statfs } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { promisify } from 'node:util'
import { readBuild } from '../build.js'
import { addonPath, cudaLibrary } from '../engine/runtime/backends/native/addon.js'
import { ortFolder } from '../engine/runtime/backends/ort/library.js'

export type Gpu = {
  readonly name: string
  /** For example 9 for Hopper's 9.0. */
  readonly computeCapability: number
  readonly totalBytes: number
  readonly freeBytes: number
}

/** The libraries of CUDA 13 and cuDNN 9 that ONNX Runtime's CUDA provider opens. */
export const cudaLibraries = [
  'libcuda.so.1',
  'libcudart.so.13',
  'libcublas.so.13',
  'libcublasLt.so.13',
  'libcurand.so.10',
  'libcudnn.so.9',
] as const
export type CudaLibrary = (typeof cudaLibraries)[number]

export type Machine = {
  readonly nodeVersion: string
  /** NVIDIA's kernel driver, such as 580.82.07. */
  readonly driverVersion: string | undefined
  readonly gpus: readonly Gpu[]
  readonly libraries: ReadonlyMap<CudaLibrary, string>
  readonly runtime: { readonly version: string; readonly folder: string }
  /** SHA-256 of the CUDA provider beside the runtime. */
  readonly provider: string | undefined
  readonly addon: BuiltAddon
}

/** How much of the native addon has been built: nothing, the CPU part, or the CUDA kernels too. */
export type BuiltAddon = 'none' | 'cpu' | 'cuda'

/** Where to look; tests pass folders of their own. */
export type MachinePlaces = {
  readonly driverFile?: string
  /** Searched before the system's own folders. */
  readonly libraryPath?: readonly string[]
  readonly systemFolders?: readonly string[]
  readonly runtimeFolder?: string
  readonly smi?: string
  /** The addon and its CUDA library. */
  readonly addonFiles?: { readonly addon: string; readonly cuda: string }
}

const providerFile = 'libonnxruntime_providers_cuda.so'

/** Examines the machine; a fact that cannot be found out is absent, never an error. */
export async function inspectMachine({
  driverFile = '/proc/driver/nvidia/version',
  libraryPath = [],
  systemFolders,
  runtimeFolder = ortFolder(),
  smi = 'nvidia-smi',
  addonFiles = { addon: addonPath, cuda: cudaLibrary },
}: MachinePlaces = {}): Promise<Machine> {
  const runtime = { version: readBuild().ort, folder: runtimeFolder }
  const folders = [
    ...libraryPath,
    runtime.folder,
    ...(systemFolders ?? (await listSystemFolders())),
  ]
  const [driverVersion, gpus, libraries, provider] = await Promise.all([
    readDriverVersion(driverFile),
    listGpus(smi),
    findLibraries(folders),
    digestOf(join(runtime.folder, providerFile)),
  ])
  return {
    nodeVersion: process.versions.node,
    driverVersion,
    gpus,
    libraries,
    runtime,
    provider,
    addon: findAddon(addonFiles),
  }
}

/** Free bytes on the disk of `folder`, or of the nearest parent that exists. */
export async function freeDiskBytes(folder: string): Promise<number | undefined> {
  if (!existsSync(folder))
    return folder === dirname(folder) ? undefined : freeDiskBytes(dirname(folder))
  const { bavail, bsize } = await statfs(folder)
  return bavail * bsize
}

async function readDriverVersion(file: string): Promise<string | undefined> {
  const text = await readFile(file, 'utf8').catch(() => '')
  return /Kernel Module.*?\s(\d+\.\d+(?:\.\d+)?)\s/.exec(text)?.[1]
}

const query = 'name,compute_cap,memory.total,memory.free'

async function listGpus(smi: string): Promise<Gpu[]> {
  const flags = [`--query-gpu=${query}`, '--format=csv,noheader,nounits']
  const run = promisify(execFile)
  const { stdout } = await run(smi, flags, { timeout: 10_000 }).catch(() => ({ stdout: '' }))
  return stdout.split('\n').flatMap((line) => readGpu(line) ?? [])
}

/** A line such as `NVIDIA H100 80GB HBM3, 9.0, 81559, 81000`, in MiB. */
function readGpu(line: string): Gpu | undefined {
  const [name, capability, total, free] = line.split(',').map((cell) => cell.trim())
  if (!name || !free) return undefined
  return {
    name,
    computeCapability: Number(capability),
    totalBytes: Number(total) * 2 ** 20,
    freeBytes: Number(free) * 2 ** 20,
  }
}

/** The folders that the dynamic linker searches by default. */
async function listSystemFolders(): Promise<string[]> {
  const run = promisify(execFile)
  const { stdout } = await run('ldconfig', ['-p'], { timeout: 10_000 }).catch(() => ({
    stdout: '',
  }))
  const cached = [...stdout.matchAll(/=> (\/.*)$/gm)].map(([, path]) => dirname(path!))
  return [...new Set([...cached, '/usr/lib/x86_64-linux-gnu', '/usr/lib64', '/usr/lib'])]
}

async function findLibraries(folders: readonly string[]): Promise<Map<CudaLibrary, string>> {
  const found = new Map<CudaLibrary, string>()
  for (const folder of folders) {
    const files = new Set(await readdir(folder).catch(() => []))
    for (const library of cudaLibraries)
      if (files.has(library) && !found.has(library)) found.set(library, join(folder, library))
  }
  return found
}

function findAddon({ addon, cuda }: Required<MachinePlaces>['addonFiles']): BuiltAddon {
  if (!existsSync(addon)) return 'none'
  return existsSync(cuda) ? 'cuda' : 'cpu'
}

async function digestOf(file: string): Promise<string | undefined> {
  if (!existsSync(file)) return undefined
  const hash = createHash('sha256')
  await pipeline(createReadStream(file, { highWaterMark: 2 ** 20 }), hash)
  return hash.digest('hex')
}
