/**
 * The official Python client, where there is one: `FLUXD_TEST_PYTHON` names an interpreter that can
 * `import replicate` (1.x). Without it this is skipped.
 */
import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import { startServer } from './server.js'

const python = process.env['FLUXD_TEST_PYTHON']

test.skipIf(!python)(
  'runs, streams, uploads, searches, deploys and understands what is wrong',
  async () => {
    const servers = [
      await startServer({ environment: { FLUXD_OUTPUT_MODE: 'url' } }),
      await startServer(),
    ]
    const script = join(import.meta.dirname, 'python/smoke.py')
    const { stdout } = await promisify(execFile)(python!, [
      script,
      ...servers.map(({ url }) => url),
    ])
    expect(stdout.trim().split('\n')).toHaveLength(8)
  },
  60_000,
)
