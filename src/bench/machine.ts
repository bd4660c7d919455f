/** The machine and the versions of a measurement. */
import { realpathSync } from 'node:fs'
import { cpus, totalmem } from 'node:os'
import type { z } from 'zod'
import { readBuild } from '../build.js'
import { inspectMachine, type MachinePlaces } from '../doctor/machine.js'
import type { Machine, Versions } from './report.js'

export type Surroundings = {
  readonly machine: z.infer<typeof Machine>
  readonly versions: z.infer<typeof Versions>
}

/** This machine; `card` is the first GPU that the driver lists. */
export async function describeSurroundings(places: MachinePlaces): Promise<Surroundings> {
  const { gpus, driverVersion, libraries, nodeVersion } = await inspectMachine(places)
  const { version, ort } = readBuild()
  const [card] = gpus
  const cuda = readCudaVersion(libraries.get('libcudart.so.13'))
  const processors = cpus()
  return {
    machine: {
      cpu: processors[0]?.model.trim() ?? 'unknown',
      cores: processors.length,
      memory: totalmem(),
      ...(card && { card: { name: card.name, memory: card.totalBytes } }),
    },
    versions: {
      fluxd: version,
      node: nodeVersion,
      onnxruntime: ort,
      ...(driverVersion !== undefined && { driver: driverVersion }),
      ...(cuda !== undefined && { cuda }),
    },
  }
}

/** The library's own file is named after its version, as libcudart.so.13.0.88 is. */
const readCudaVersion = (library: string | undefined) =>
  library && /\.so\.([\d.]+)$/.exec(realpathSync(library))?.[1]
