/** The package: what it ships, what installing it runs, and that `npm start` ends with its parent. */
import { execFile, spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { describe, expect, onTestFinished, test } from 'vitest'
import { temporaryData } from './temporaryData.js'

const root = join(import.meta.dirname, '..')
const readJson = (path: string) => JSON.parse(readFileSync(join(root, path), 'utf8'))

type Packed = { files: { path: string }[]; unpackedSize: number; size: number }

describe('what is packed', async () => {
  // `dist` is there: `npm test` builds first.
  const { stdout } = await promisify(execFile)(
    'npm',
    ['pack', '--dry-run', '--json', '--ignore-scripts', '--loglevel=error'],
    { cwd: root },
  )
  const [packed] = Object.values<Packed>(JSON.parse(stdout))
  const paths = packed!.files.map(({ path }) => path)

  test.each([
    'CHANGELOG.md',
    'LICENSE',
    'README.md',
    'dist/main.js',
    'dist/contract/input.d.ts',
    'docs/settings.md',
    'models/catalog/fofr/shxdo-v2.json',
    'models/tiny/dev/transformer/diffusion_pytorch_model.safetensors',
    'models/tiny/loras/fofr--shxdo-v2.safetensors',
    'models/tiny/schnell/tokenizer/vocab.json',
    'native/CMakeLists.txt',
    'native/addon/addon.cc',
    'native/cuda/merge.cu',
    'native/include/fluxd/kernels.h',
    'native/third_party/onnxruntime/LICENSE',
  ])('holds %s', (path) => {
    expect(paths).toContain(path)
  })

  test('holds no tests, no trainers, no emulation, nothing that was built by CMake', () => {
    const strays = paths.filter((path) =>
      /(^|\/)(test|train|emulation|build)\/|\.(py|png|tgz)$|^src\//.test(path),
    )
    expect(strays).toEqual([])
  })

  test('is small', () => {
    // Observed: 6.3 MB, 10.2 MB unpacked, 452 files; 8.3 MB of them are the embedded model.
    expect(packed!.size).toBeLessThan(8e6)
    expect(packed!.unpackedSize).toBeLessThan(13e6)
    expect(paths.length).toBeLessThan(700)
  })
})

describe('installing', () => {
  const { packages } = readJson('package-lock.json')
  const { allowScripts, dependencies, devDependencies } = readJson('package.json')
  const withScripts = Object.keys(packages)
    .filter((path) => packages[path].hasInstallScript)
    .map((path) => path.replace(/^.*node_modules\//, ''))

  test('runs the script of better-sqlite3 and no other, and npm has been told so', () => {
    for (const name of withScripts) expect(allowScripts).toHaveProperty([name])
    expect(Object.keys(allowScripts).filter((name) => allowScripts[name])).toEqual([
      'better-sqlite3',
    ])
  })

  test('does not fetch the CUDA provider, with an npm that knows no allowScripts either', () => {
    // That npm runs the scripts of what is marked here.
    expect(packages['node_modules/onnxruntime-node']).not.toHaveProperty('hasInstallScript')
  })

  test('has every package of every system in its lock file, from no registry in particular', () => {
    for (const [path, { optionalDependencies = {} }] of Object.entries<{
      optionalDependencies?: Record<string, string>
    }>(packages))
      for (const name of Object.keys(optionalDependencies))
        expect(packages, `${name} of ${path}`).toHaveProperty([`node_modules/${name}`])
    expect(Object.values(packages).filter((entry) => Object(entry).resolved)).toEqual([])
  })

  test('takes exact versions', () => {
    const versions = Object.values({ ...dependencies, ...devDependencies })
    expect(versions.filter((version) => !/^\d+\.\d+\.\d+$/.test(String(version)))).toEqual([])
  })
})

test.skipIf(process.platform === 'win32')(
  'npm start ends with the npm that started it',
  async () => {
    const npm = spawn('npm', ['start'], {
      cwd: root,
      env: { ...process.env, FLUXD_PORT: '0', FLUXD_DATA_DIR: temporaryData() },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    let server = 0
    onTestFinished(() => {
      if (server > 0 && isRunning(server)) process.kill(server, 'SIGKILL')
    })
    for await (const line of npm.stderr) {
      server = Number(/"pid":(\d+)/.exec(String(line))?.[1] ?? server)
      if (/listening/i.test(String(line))) break
    }
    expect(isRunning(server)).toBe(true)
    npm.kill('SIGTERM')
    await expect.poll(() => isRunning(server)).toBe(false)
  },
)

function isRunning(pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch {
    return false
  }
}
