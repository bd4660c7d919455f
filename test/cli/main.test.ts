/** The command line itself: aliases, flags of serve, and one form for all errors. */
import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { temporaryData } from '../temporaryData.js'

const main = join(import.meta.dirname, '../../src/main.ts')

const run = (...command: string[]) =>
  new Promise<{ code: unknown; stdout: string; stderr: string }>((resolve) => {
    const env = { ...process.env, FLUXD_DATA_DIR: join(temporaryData(), 'data') }
    const options = { env, timeout: 120_000 }
    execFile(process.execPath, ['--import', 'tsx', main, ...command], options, (error, ...output) =>
      resolve({ code: error?.code ?? 0, stdout: output[0], stderr: output[1] }),
    )
  })

test.each([
  [['models', 'list', '--json'], /"name": "shxdo-v2"/],
  [['loras', 'list'], /There are no LoRAs yet/],
  [['keys', 'list'], /There are no keys yet/],
])('fluxd %j lists', async (command, printed) => {
  const { code, stdout } = await run(...command)
  expect(code).toBe(0)
  expect(stdout).toMatch(printed)
})

test.each([
  [['serve', '--port', 'http'], 'fluxd: Expected FLUXD_PORT to be an integer from 0 to 65535'],
  [['serve', '--colour'], "fluxd: unknown option '--colour'"],
  [['keys', 'add', 'me', '--scope', 'all'], 'fluxd: Expected --scope to be one of predict'],
])('fluxd %j is an error that names what is wrong', async (command, message) => {
  const { code, stdout, stderr } = await run(...command)
  expect([code, stdout]).toEqual([1, ''])
  expect(stderr.startsWith(message)).toBe(true)
})
