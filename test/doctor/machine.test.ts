import { chmodSync, mkdirSync, mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { measureCheckpoint } from '../../src/doctor/examination.js'
import { freeDiskBytes, inspectMachine } from '../../src/doctor/machine.js'

const folder = mkdtempSync(join(tmpdir(), 'fluxd-doctor-'))

function write(path: string, text: string): string {
  const full = join(folder, path)
  mkdirSync(join(full, '..'), { recursive: true })
  writeFileSync(full, text)
  return full
}

test('reads the driver, the cards and the libraries as NVIDIA leaves them', async () => {
  const smi = write(
    'nvidia-smi',
    '#!/bin/sh\necho "NVIDIA H100 80GB HBM3, 9.0, 81559, 80000"\necho "NVIDIA L4, 8.9, 23034, 100"\n',
  )
  chmodSync(smi, 0o755)
  const driverFile = write(
    'version',
    'NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.82.07  Sat Aug 1\nGCC version: 12\n',
  )
  const cudart = write('first/libcudart.so.13', '')
  write('second/libcudart.so.13', '')
  const cudnn = write('second/libcudnn.so.9', '')
  write('ort/libonnxruntime_providers_cuda.so', 'abc')
  const machine = await inspectMachine({
    driverFile,
    smi,
    libraryPath: [join(folder, 'first')],
    systemFolders: [join(folder, 'second'), join(folder, 'absent')],
    runtimeFolder: join(folder, 'ort'),
  })
  expect(machine).toMatchObject({ driverVersion: '580.82.07', runtime: { version: '1.29.0' } })
  expect(machine.gpus).toEqual([
    {
      name: 'NVIDIA H100 80GB HBM3',
      computeCapability: 9,
      totalBytes: 81559 * 2 ** 20,
      freeBytes: 80000 * 2 ** 20,
    },
    expect.objectContaining({ name: 'NVIDIA L4', computeCapability: 8.9 }),
  ])
  expect([...machine.libraries]).toEqual([
    ['libcudart.so.13', cudart],
    ['libcudnn.so.9', cudnn],
  ])
  // sha256 of "abc", FIPS 180-2.
  expect(machine.provider).toBe('ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad')
})

test('a machine without any of it is described, not refused', async () => {
  const machine = await inspectMachine({
    driverFile: join(folder, 'absent'),
    smi: join(folder, 'absent'),
    systemFolders: [],
    runtimeFolder: folder,
  })
  expect(machine).toMatchObject({ driverVersion: undefined, gpus: [], provider: undefined })
  expect(machine.libraries.size).toBe(0)
})

test('weights are counted in folders of folders, and none is 0', async () => {
  write('model/transformer/a.safetensors', '12345')
  write('model/vae/b.safetensors', '123')
  write('model/vae/config.json', '{}')
  expect(await measureCheckpoint(join(folder, 'model'))).toBe(8)
  expect(await measureCheckpoint(join(folder, 'model/vae/b.safetensors'))).toBe(3)
  expect(await measureCheckpoint(join(folder, 'nothing'))).toBe(0)
})

test('the free space of a missing folder is that of the disk it will be on', async () => {
  expect(await freeDiskBytes(join(folder, 'not/yet'))).toBeGreaterThan(0)
})
