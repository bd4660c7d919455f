/** fluxd sends nothing anywhere: the telemetry of ONNX Runtime is off. */
import { execFileSync } from 'node:child_process'
import { mkdirSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { temporaryFolder } from '../weightFiles.js'

test('a generation leaves its image, and no file in the home, cache or temporary folder', () => {
  const folder = temporaryFolder()
  const [home, temporary, work] = ['home', 'temporary', 'work'].map((name) => join(folder, name))
  for (const each of [home!, temporary!, work!]) mkdirSync(each)
  const main = join(import.meta.dirname, '../../src/main.ts')
  const flags = [
    '--model',
    'schnell',
    '--steps',
    '1',
    '--megapixels',
    '0.25',
    '-o',
    join(work!, 'a.png'),
  ]
  // Without `CI`, which turns the telemetry off by itself.
  const env = {
    PATH: process.env['PATH'],
    HOME: home,
    XDG_CACHE_HOME: join(home!, '.cache'),
    TMPDIR: temporary,
    FLUXD_DATA_DIR: join(work!, 'data'),
    FLUXD_DEVICE: 'cpu',
  }
  execFileSync(process.execPath, ['--import', 'tsx', main, 'run', 'a red disc', ...flags], {
    env,
    timeout: 300_000,
  })
  const list = (place: string) =>
    readdirSync(place, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map(({ parentPath, name }) => join(parentPath, name).slice(place.length + 1))
  expect(list(home!)).toEqual([])
  // The loader of TypeScript has a cache of its own, which an installed fluxd does not use.
  expect(list(temporary!).filter((file) => !file.startsWith('tsx-'))).toEqual([])
  expect(list(work!)).toEqual(['a.png'])
})
