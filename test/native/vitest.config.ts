/** The tests that need compilers and the addon: `npm run test:native` builds it and starts them. */
import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['test/native/addon/**/*.test.ts', 'test/gpu/**/*.test.ts'],
    globalSetup: 'test/temporaryFolders.ts',
    pool: 'forks',
    maxWorkers: 1,
    testTimeout: 120_000,
    hookTimeout: 120_000,
  },
})
