/** The tests that need the CUDA provider: `test/cuda/run` prepares it and starts them. */
import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['test/cuda/**/*.test.ts'],
    globalSetup: 'test/temporaryFolders.ts',
    pool: 'forks',
    maxWorkers: 1,
    // One log of the device for all of them.
    fileParallelism: false,
    testTimeout: 120_000,
    hookTimeout: 120_000,
  },
})
