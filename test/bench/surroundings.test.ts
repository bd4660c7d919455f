/** What is asked of the machine: the page cache, peaks of memory, versions. */
import { execFileSync, spawnSync } from 'node:child_process'
import { chmodSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test, vi } from 'vitest'
import { describeSurroundings } from '../../src/bench/machine.js'
import { peakResidentBytes, watchDeviceMemory } from '../../src/bench/memory.js'
import { cachedShare, dropFromCache } from '../../src/bench/pageCache.js'
import { temporaryData } from '../temporaryData.js'

function writeSmi(script: string): string {
  const path = join(temporaryData(), 'nvidia-smi')
  writeFileSync(path, `#!/bin/sh\n${script}\n`)
  chmodSync(path, 0o755)
  return path
}

const hasFincore = spawnSync('fincore', ['--version']).status === 0

describe.runIf(hasFincore)('the page cache', () => {
  test('holds a file that was just written, and less of it once it is dropped', async () => {
    const file = join(temporaryData(), 'weights')
    writeFileSync(file, Buffer.alloc(2 ** 20 + 1, 1))
    expect(await cachedShare([file])).toBe(1)
    await dropFromCache([file])
    // A file system in memory keeps it.
    const isInMemory = execFileSync('stat', ['-f', '-c', '%T', file]).includes('tmpfs')
    expect(await cachedShare([file])).toBeCloseTo(isInMemory ? 1 : 0, 5)
  })

  test('is counted over all files', async () => {
    const folder = temporaryData()
    const [large, small] = [join(folder, 'large'), join(folder, 'small')]
    writeFileSync(large, Buffer.alloc(3 * 2 ** 20, 1))
    writeFileSync(small, Buffer.alloc(2 ** 20, 1))
    expect(await cachedShare([large, small])).toBe(1)
  })

  test('is unknown for a file that is not there', async () => {
    expect(await cachedShare([join(temporaryData(), 'absent')])).toBeUndefined()
  })
})

describe('memory', () => {
  test('of a process is its peak, and unknown without the process', () => {
    expect(peakResidentBytes(process.pid)).toBeGreaterThan(10e6)
    expect(peakResidentBytes(2 ** 30)).toBeUndefined()
  })

  test('of cards is the largest rise of one over its first sample', async () => {
    const smi = writeSmi(
      'cd "$(dirname "$0")"; echo >> calls\n' +
        'case $(wc -l < calls) in 1) printf "1000\\n70000\\n";; 2) printf "1500\\n70000\\n";; *) printf "1200\\n70100\\n";; esac',
    )
    const watch = await watchDeviceMemory(smi)
    await vi.waitFor(() => expect(readFileSync(join(smi, '../calls'), 'utf8').length).toBe(3))
    expect(await watch.stop()).toBe(500 * 2 ** 20)
  })

  test('of cards is unknown where there are none', async () => {
    const absent = await watchDeviceMemory(join(temporaryData(), 'absent'))
    expect(await absent.stop()).toBeUndefined()
    const broken = await watchDeviceMemory(writeSmi('echo "NVIDIA-SMI has failed"; exit 9'))
    expect(await broken.stop()).toBeUndefined()
  })
})

test('a machine with a card tells driver, CUDA and card', async () => {
  const folder = temporaryData()
  mkdirSync(join(folder, 'lib'))
  writeFileSync(join(folder, 'lib/libcudart.so.13.0.88'), '')
  symlinkSync('libcudart.so.13.0.88', join(folder, 'lib/libcudart.so.13'))
  writeFileSync(
    join(folder, 'version'),
    'NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.82.07  Sat Aug 1\n',
  )
  const { machine, versions } = await describeSurroundings({
    smi: writeSmi('echo "NVIDIA H100 80GB HBM3, 9.0, 81559, 81000"'),
    driverFile: join(folder, 'version'),
    libraryPath: [join(folder, 'lib')],
    systemFolders: [],
    runtimeFolder: folder,
  })
  expect(machine.card).toEqual({ name: 'NVIDIA H100 80GB HBM3', memory: 81559 * 2 ** 20 })
  expect(versions).toMatchObject({ driver: '580.82.07', cuda: '13.0.88', onnxruntime: '1.29.0' })
  expect(machine.cores).toBeGreaterThan(0)
})
