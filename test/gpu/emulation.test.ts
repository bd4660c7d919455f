/**
 * The CUDA kernels, compiled for the CPU and run thread by thread, against their twins: what can be
 * known of them without a GPU. README.md here says how they are checked on one.
 */
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { beforeAll, describe, expect, test } from 'vitest'

type Report = { cases: { name: string; error: number | null; tolerance: number; ok: boolean }[] }

const hasCompiler = spawnSync('g++', ['--version']).status === 0

describe.skipIf(!hasCompiler)('the emulated CUDA kernels', () => {
  const out = mkdtempSync(join(tmpdir(), 'fluxd-emulation-'))

  /** What `kernels` says where the environment makes things go wrong. */
  function compare(environment: Record<string, string> = {}) {
    const { stdout, stderr } = spawnSync(
      join(out, 'kernels'),
      [join(out, 'libfluxd_cuda.so'), join(out, 'report.json')],
      { env: { LD_LIBRARY_PATH: out, ...environment }, encoding: 'utf8' },
    )
    return stdout + stderr
  }

  beforeAll(() => {
    execFileSync(fileURLToPath(new URL('emulate', import.meta.url)), [out], { stdio: 'pipe' })
    // Compiling takes 15 s on two idle cores.
  }, 240_000)

  test('agree with their twins in every case', () => {
    const { cases }: Report = JSON.parse(readFileSync(join(out, 'report.json'), 'utf8'))
    expect(cases.length).toBeGreaterThan(60)
    expect(cases.filter(({ ok }) => !ok)).toEqual([])
  })

  test.each(['gelu', 'outer', 'gelu,outer,invalid', 'favourite', 'favourite,scaled'])(
    'agree where cuBLASLt cannot do %s',
    (missing) => {
      expect(compare({ EMULATED_LT: missing })).toMatch(/ 0 failed\n$/)
    },
  )

  test('are found wrong by one value of thousands', () => {
    expect(compare({ EMULATED_LT: 'slip' })).toMatch(/FAIL fp8_linear 53 80 112 plain/)
  })

  test('allocate while another thread captures, but for what operators need in a capture', () => {
    const said = compare({ EMULATED_CUDA: 'capturing-elsewhere' })
    expect(said).toMatch(/ok +quantize_rows /)
    expect(said).toMatch(/FAIL linear .*cudaErrorStreamCaptureUnsupported/)
  })

  test.each([
    [{ EMULATED_LT: 'all' }, /linear .*Expected cuBLASLt to have an algorithm for bf16 products/],
    [{ EMULATED_CUDA: 'no-memory' }, /linear .*cudaErrorMemoryAllocation: out of memory/],
    [{ EMULATED_CUDA: 'no-device' }, /^Expected a CUDA device but the driver reports none/],
    [
      { EMULATED_CUDA: 'capturing' },
      /Expected the first operator of a stream before it is captured/,
    ],
    [{ LD_LIBRARY_PATH: '/nowhere' }, /Expected libcublasLt\.so\.13 .* install cuBLAS for CUDA 13/],
  ])('say what is wrong: %o', (environment, message) => {
    expect(compare(environment)).toMatch(message)
  })
})
