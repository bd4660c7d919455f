import { describe, expect, test } from 'vitest'
import {
  chooseBackend,
  chooseDevice,
  type DiagnosisInput,
  diagnose,
} from '../../src/doctor/diagnosis.js'
import { type CudaLibrary, cudaLibraries, type Machine } from '../../src/doctor/machine.js'

const libraries = new Map(
  cudaLibraries.map((name): [CudaLibrary, string] => [name, `/lib/${name}`]),
)

const gpuHost: Machine = {
  nodeVersion: '24.3.0',
  driverVersion: '580.82.07',
  gpus: [{ name: 'H100', computeCapability: 9, totalBytes: 80 * 2 ** 30, freeBytes: 79 * 2 ** 30 }],
  libraries,
  runtime: { version: '1.29.0', folder: '/ort' },
  provider: '56cf3254b118ad837ccc4ed8f6d1b23504bbf7ef91b34cbc0b289cb7f10b3037',
  addon: 'cuda',
}
const cpuHost: Machine = {
  ...gpuHost,
  driverVersion: undefined,
  gpus: [],
  libraries: new Map(),
  provider: undefined,
  addon: 'none',
}
const input = (machine: Machine, changes: Partial<DiagnosisInput> = {}): DiagnosisInput => ({
  machine,
  device: 'auto',
  backend: 'auto',
  modelBytes: { dev: 33 * 2 ** 30 },
  dataDir: '/data',
  freeDiskBytes: 500 * 2 ** 30,
  hasHubToken: true,
  ...changes,
})
const problems = (sick: DiagnosisInput) =>
  diagnose(sick)
    .filter(({ verdict }) => verdict === 'problem')
    .map(({ subject }) => subject)

test('a sound GPU host and a sound CPU host have nothing but ok', () => {
  for (const machine of [gpuHost, cpuHost])
    expect(diagnose(input(machine)).filter(({ verdict }) => verdict !== 'ok')).toEqual([])
})

describe('the device', () => {
  test('is the GPU as soon as there is a sign of one', () => {
    expect(chooseDevice('auto', gpuHost)).toBe('cuda')
    expect(chooseDevice('auto', { ...gpuHost, gpus: [] })).toBe('cuda')
    expect(chooseDevice('auto', cpuHost)).toBe('cpu')
    expect(chooseDevice('cpu', gpuHost)).toBe('cpu')
  })

  test.each(cudaLibraries)('does not become the CPU because %s is missing', (library) => {
    const left = new Map([...libraries].filter(([name]) => name !== library))
    expect(problems(input({ ...gpuHost, libraries: left }))).toEqual([library])
  })
})

describe('the backend', () => {
  test.each([
    ['auto', 'cuda', 'cuda', 'native'],
    ['auto', 'cuda', 'cpu', 'ort'],
    ['auto', 'cuda', 'none', 'ort'],
    ['auto', 'cpu', 'cuda', 'ort'],
    ['ort', 'cuda', 'cuda', 'ort'],
    ['native', 'cpu', 'cpu', 'native'],
  ] as const)('%s on %s, with the addon built for %s, is %s', (choice, device, addon, wanted) => {
    expect(chooseBackend(choice, device, { ...gpuHost, addon })).toBe(wanted)
  })

  test.each([
    [gpuHost, 'none', 'auto', 'warning', 'npm run build:native'],
    [gpuHost, 'cpu', 'auto', 'warning', 'Install nvcc 13, then: npm run build:native'],
    [gpuHost, 'cpu', 'native', 'problem', 'Install nvcc 13, then: npm run build:native'],
    [gpuHost, 'none', 'ort', 'ok', undefined],
    [cpuHost, 'none', 'auto', 'ok', undefined],
    [cpuHost, 'none', 'native', 'problem', 'npm run build:native'],
    [cpuHost, 'cpu', 'native', 'ok', undefined],
  ] as const)(
    'a machine with the addon built as needed or not (%#)',
    (host, addon, backend, verdict, fix) => {
      const findings = diagnose(input({ ...host, addon }, { backend }))
      const finding = findings.find(({ subject }) => subject === 'native addon')!
      expect([finding.verdict, finding.fix]).toEqual([verdict, fix])
    },
  )
})

test.each<[string, Machine]>([
  ['node', { ...gpuHost, nodeVersion: '20.18.1' }],
  ['driver', { ...gpuHost, driverVersion: '570.10' }],
  ['driver', { ...gpuHost, driverVersion: undefined }],
  ['gpu', { ...gpuHost, gpus: [] }],
  ['gpu', { ...gpuHost, gpus: [{ ...gpuHost.gpus[0]!, computeCapability: 7.5 }] }],
  ['CUDA provider', { ...gpuHost, provider: undefined }],
])('%s is a problem with a fix', (subject, machine) => {
  expect(problems(input(machine))).toEqual([subject])
  expect(diagnose(input(machine)).find((finding) => finding.subject === subject)?.fix).toBeTruthy()
})

test('a provider of another runtime, a full disk and a full card are warnings', () => {
  const full = { ...gpuHost.gpus[0]!, freeBytes: 10 * 2 ** 30 }
  const machine = { ...gpuHost, provider: 'other', gpus: [full] }
  const warnings = diagnose(input(machine, { freeDiskBytes: 2 ** 30, hasHubToken: false }))
    .filter(({ verdict }) => verdict === 'warning')
    .map(({ subject }) => subject)
  expect(warnings).toEqual(['CUDA provider', 'memory for dev', 'disk', 'Hugging Face token'])
})
