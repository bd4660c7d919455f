import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    // These need compilers and the addon: `npm run test:native`.
    exclude: ['test/native/addon/**', 'test/gpu/**', 'test/cuda/**'],
    globalSetup: 'test/temporaryFolders.ts',
    pool: 'forks',
    // On a machine with a GPU too, where servers that tests start would take it.
    env: { FLUXD_DEVICE: 'cpu' },
    // Sessions use every core by themselves.
    maxWorkers: 2,
    testTimeout: 60_000,
    hookTimeout: 60_000,
  },
})
