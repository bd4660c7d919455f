/**
 * The lanes of tests (CONTRIBUTING.md): `npm test` runs `unit`, `surface` and `process`; `faults` and
 * `fuzz` have scripts of their own. A path on the command line finds its lane by itself.
 */
import { defineConfig } from 'vitest/config'

/** These need compilers, the addon or a GPU: `npm run test:native`, test/cuda/run, test/gpu/run.sh. */
const optIn = ['test/native/addon/**', 'test/gpu/**', 'test/cuda/**']

/** What clients and operators see: HTTP and commands. */
const surface = ['test/cli/**/*.test.ts', 'test/conformance/**/*.test.ts']

/** Start processes, load checkpoints or replace modules: each file gets a process of its own. */
const apart = [
  'test/embedded/**/*.test.ts',
  'test/engine/**/*.test.ts',
  'test/loras/{blobStore,eviction}.test.ts',
  'test/package.test.ts',
  'test/worker/**/*.test.ts',
]

const faults = 'test/faults/**/*.test.ts'
const fuzz = 'test/fuzz/**/*.test.ts'

/** What every lane has; a limit of time ends a hang, and is never what a test is about. */
const common = {
  pool: 'forks',
  globalSetup: 'test/temporaryFolders.ts',
  setupFiles: 'test/patience.ts',
  testTimeout: 600_000,
  hookTimeout: 600_000,
  expect: { poll: { timeout: 60_000 } },
  // On a machine with a GPU too, where servers that tests start would take it.
  env: { FLUXD_DEVICE: 'cpu', ORT_DISABLE_TELEMETRY: '1' },
} as const

export default defineConfig({
  test: {
    // Sessions use every core by themselves.
    maxWorkers: 2,
    projects: [
      {
        test: {
          ...common,
          name: 'unit',
          // Importing the server takes longer than most files' tests: a worker imports it once.
          isolate: false,
          include: ['test/**/*.test.ts'],
          exclude: [...optIn, ...surface, ...apart, faults, fuzz],
        },
      },
      { test: { ...common, name: 'surface', isolate: false, include: surface } },
      { test: { ...common, name: 'process', include: apart } },
      { test: { ...common, name: 'faults', include: [faults] } },
      { test: { ...common, name: 'fuzz', include: [fuzz] } },
    ],
  },
})
