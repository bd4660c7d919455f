import { execFile } from 'node:child_process'
import { chmodSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { PassThrough } from 'node:stream'
import { text } from 'node:stream/consumers'
import { describe, expect, test } from 'vitest'
import { runDoctor } from '../../src/cli/doctor.js'
import { readConfig } from '../../src/config/config.js'
import type { MachinePlaces } from '../../src/doctor/machine.js'
import { chooseTarget } from '../../src/doctor/target.js'
import { temporaryFolder } from '../weightFiles.js'

const folder = temporaryFolder()
const settings = {
  FLUXD_DATA_DIR: join(folder, 'data'),
  FLUXD_HF_TOKEN: 'hf_1',
  FLUXD_PORT: '0',
}

const cpuMachine: MachinePlaces = {
  driverFile: join(folder, 'absent'),
  smi: join(folder, 'absent'),
  systemFolders: [],
  runtimeFolder: folder,
  addonFiles: { addon: join(folder, 'absent'), cuda: join(folder, 'absent') },
}

/** A driver and a card as NVIDIA shows them, but only one of the libraries. */
function sickMachine(): MachinePlaces {
  const bin = join(folder, 'bin')
  mkdirSync(bin, { recursive: true })
  const smi = join(bin, 'nvidia-smi')
  writeFileSync(smi, '#!/bin/sh\necho "NVIDIA H100 80GB HBM3, 9.0, 81559, 80000"\n')
  chmodSync(smi, 0o755)
  const driverFile = join(folder, 'driver')
  writeFileSync(driverFile, 'NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.82.07  Aug 1\n')
  const libraries = join(folder, 'lib')
  mkdirSync(libraries, { recursive: true })
  writeFileSync(join(libraries, 'libcudart.so.13'), '')
  return { ...cpuMachine, smi, driverFile, libraryPath: [libraries] }
}

async function examine(places: MachinePlaces, variables = {}) {
  const stdout = new PassThrough()
  const config = readConfig({ ...settings, ...variables })
  const sound = await runDoctor({}, { config, stdout, places })
  stdout.end()
  return { sound, lines: (await text(stdout)).trimEnd().split('\n') }
}

test('a sound CPU machine has a line for each thing that matters to it', async () => {
  const { sound, lines } = await examine(cpuMachine)
  expect(sound).toBe(true)
  expect(lines.filter((line) => !line.startsWith('    '))).toEqual([
    expect.stringMatching(/^✓ fluxd: \d.*, ONNX Runtime 1\.29\.0$/),
    expect.stringMatching(/^✓ node: \d+\./),
    '✓ device: cpu, chosen by what is here',
    '✓ backend: ort, chosen by what is here',
    '✓ native addon: not built, and not needed',
    expect.stringMatching(/^[✓!] disk: [\d.]+ GiB free for /),
    '✓ Hugging Face token: set',
    `✓ data folder: ${settings.FLUXD_DATA_DIR}, which the first start makes`,
    '✓ store: none yet; the first start makes it',
    '✓ port: any free one',
    '✓ API keys: none, so only this machine may use the server',
    '✓ model dev: embedded, for simple shapes only; fluxd pull dev downloads FLUX.1',
    '✓ model schnell: embedded, for simple shapes only; fluxd pull schnell downloads FLUX.1',
    '✓ safety checker: none: nothing is checked',
  ])
})

test('as JSON, a program can read the verdict and each finding', async () => {
  const stdout = new PassThrough()
  const config = readConfig({ ...settings, FLUXD_CHECKPOINT_DEV: join(folder, 'absent') })
  expect(await runDoctor({ json: true }, { config, stdout, places: cpuMachine })).toBe(false)
  stdout.end()
  const { works, findings } = JSON.parse(await text(stdout))
  expect(works).toBe(false)
  expect(findings).toContainEqual({
    subject: 'model dev',
    verdict: 'problem',
    detail: expect.stringContaining('absent: expected a diffusers folder'),
    fix: 'Set FLUXD_CHECKPOINT_DEV, or run: fluxd pull dev',
  })
})

test('a GPU machine with missing parts gets a line for each, with its fix', async () => {
  const { sound, lines } = await examine(sickMachine())
  expect(sound).toBe(false)
  expect(lines).toContain('✓ device: cuda, chosen by what is here')
  expect(lines).toContain('✓ driver: 580.82.07')
  expect(lines).toContain('✓ gpu: NVIDIA H100 80GB HBM3, compute capability 9, 79.6 GiB')
  expect(lines).toContain(`✓ libcudart.so.13: ${join(folder, 'lib/libcudart.so.13')}`)
  const missing = lines.indexOf('✗ libcudnn.so.9: not found')
  expect(lines[missing + 1]).toBe(
    '    Install libcudnn9-cuda-13, or add its folder to LD_LIBRARY_PATH',
  )
  expect(lines).toContain('✗ CUDA provider: none beside ONNX Runtime 1.29.0')
  const addon = lines.indexOf('! native addon: not built; images take longer without it')
  expect(lines[addon + 1]).toBe('    npm run build:native')
})

describe('the device of the engines', () => {
  const choose = async (places: MachinePlaces, FLUXD_DEVICE: string) =>
    (await chooseTarget(readConfig({ ...settings, FLUXD_DEVICE }), places)).device

  test('is the CPU where there is no GPU, or where it is asked for', async () => {
    expect(await choose(cpuMachine, 'auto')).toBe('cpu')
    expect(await choose(sickMachine(), 'cpu')).toBe('cpu')
  })

  test.each(['auto', 'cuda'])('never becomes the CPU unasked (%s)', async (choice) => {
    await expect(choose(sickMachine(), choice)).rejects.toThrow(
      /Expected the GPU to work.*FLUXD_DEVICE=cpu.*\n✗ libcuda\.so\.1: not found\n {4}Install the NVIDIA driver/,
    )
  })

  test('is nothing where a GPU is asked for and none is there', async () => {
    await expect(choose(cpuMachine, 'cuda')).rejects.toThrow(/✗ driver: none is loaded/)
  })
})

describe('the backend of the engines', () => {
  const built = join(folder, 'fluxd_native.node')
  writeFileSync(built, '')
  const choose = (FLUXD_BACKEND: string, FLUXD_DEVICE: string, addon: string) =>
    chooseTarget(readConfig({ ...settings, FLUXD_BACKEND, FLUXD_DEVICE }), {
      ...cpuMachine,
      addonFiles: { addon, cuda: join(folder, 'absent') },
    })

  test.each(['auto', 'cpu'])(
    'on the CPU (%s) is the addon where it is asked for',
    async (device) => {
      expect((await choose('auto', device, built)).backend).toBe('ort')
      expect((await choose('ort', device, built)).backend).toBe('ort')
      expect((await choose('native', device, built)).backend).toBe('native')
    },
  )

  test.each(['auto', 'cpu', 'cuda'])('(%s) is nothing where it is not built', async (device) => {
    await expect(choose('native', device, join(folder, 'absent'))).rejects.toThrow(
      'Expected the native addon, as FLUXD_BACKEND asks for it, but found:\n✗ native addon: not built\n    npm run build:native',
    )
  })
})

describe('the command', () => {
  const main = join(import.meta.dirname, '../../src/main.ts')
  const run = (command: string, variables: Record<string, string>) =>
    new Promise<{ code: unknown; stdout: string; stderr: string }>((resolve) => {
      const env = { ...settings, HOME: folder, PATH: join(folder, 'bin'), ...variables }
      execFile(
        process.execPath,
        ['--import', 'tsx', main, command],
        { env, timeout: 50_000 },
        (error, stdout, stderr) => resolve({ code: error?.code ?? 0, stdout, stderr }),
      )
    })

  test('doctor fails where something is wrong', async () => {
    sickMachine()
    const { code, stdout } = await run('doctor', { LD_LIBRARY_PATH: join(folder, 'lib') })
    expect(code).toBe(1)
    expect(stdout).toContain('✓ gpu: NVIDIA H100 80GB HBM3')
    expect(stdout).toContain(`✓ libcudart.so.13: ${join(folder, 'lib')}`)
    expect(stdout).toContain('✗ libcublas.so.13: not found')
  })

  test('serve does not start on a GPU that cannot work and prints the reason', async () => {
    sickMachine()
    const { code, stdout, stderr } = await run('serve', { FLUXD_PORT: '0' })
    expect(code).toBe(1)
    expect(stdout).toBe('')
    expect(stderr).toMatch(/fluxd: Expected the GPU to work, as there is one/)
    expect(stderr).toContain('✗ CUDA provider: none beside ONNX Runtime')
  })
})
