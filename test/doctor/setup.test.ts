import { mkdirSync, writeFileSync } from 'node:fs'
import { createServer as createHttpServer, type RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { PassThrough } from 'node:stream'
import { describe, expect, onTestFinished, test } from 'vitest'
import { addKey } from '../../src/cli/keys.js'
import { examineSetup, type Setup } from '../../src/doctor/setup.js'
import { temporaryFolder } from '../weightFiles.js'

const embedded = join(import.meta.dirname, '../../models/tiny')
const fixtures = join(import.meta.dirname, '../fixtures')

const makeSetup = (changes: Partial<Setup> = {}): Setup => ({
  host: '127.0.0.1',
  isLoopback: true,
  port: 0,
  dataDir: join(temporaryFolder(), 'data'),
  checkpoints: { dev: join(embedded, 'dev'), schnell: join(embedded, 'schnell') },
  safetyModel: undefined,
  apiKey: undefined,
  warnings: [],
  embedded,
  ...changes,
})

async function find(subject: string, changes: Partial<Setup>) {
  const findings = await examineSetup(makeSetup(changes))
  return findings.find((finding) => finding.subject === subject)
}

const listen = async (listener: RequestListener) => {
  const server = createHttpServer(listener)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    server.close()
  })
  return (server.address() as AddressInfo).port
}

test('a setup without faults has nothing but ok', async () => {
  const findings = await examineSetup(makeSetup())
  expect(findings.filter(({ verdict }) => verdict !== 'ok')).toEqual([])
})

test('settings that are none are warnings', async () => {
  expect(await find('settings', { warnings: ['There is no setting FLUXD_PROT'] })).toMatchObject({
    verdict: 'warning',
    detail: 'There is no setting FLUXD_PROT',
  })
})

test('a data folder below a file is a problem', async () => {
  const file = join(temporaryFolder(), 'file')
  writeFileSync(file, '')
  expect(await find('data folder', { dataDir: join(file, 'data') })).toMatchObject({
    verdict: 'problem',
    fix: expect.stringContaining('FLUXD_DATA_DIR'),
  })
})

describe('the store', () => {
  test('with keys is sound, and the keys are counted', async () => {
    const dataDir = join(temporaryFolder(), 'data')
    const quiet = { config: { dataDir }, stdout: new PassThrough() }
    await addKey('me', { scope: ['predict'], priority: '0', rate: '0' }, quiet)
    const setup = { dataDir, host: '0.0.0.0', isLoopback: false }
    expect(await find('store', setup)).toMatchObject({ verdict: 'ok', detail: 'sound' })
    expect(await find('API keys', setup)).toMatchObject({ verdict: 'ok', detail: '1 in the store' })
  })

  test('that is no store is a problem', async () => {
    const dataDir = temporaryFolder()
    mkdirSync(dataDir, { recursive: true })
    writeFileSync(join(dataDir, 'fluxd.sqlite'), 'x'.repeat(10_000))
    expect(await find('store', { dataDir })).toMatchObject({
      verdict: 'problem',
      detail: 'damaged or not readable (file is not a database)',
    })
  })
})

describe('the port', () => {
  test('of another program is a problem', async () => {
    const port = await listen((_, response) => response.end('hello'))
    expect(await find('port', { port })).toMatchObject({
      verdict: 'problem',
      detail: `another program listens on ${port} of 127.0.0.1`,
    })
  })

  test('of a fluxd is none', async () => {
    const port = await listen((_, response) => response.end('{"safety_checker":"none"}'))
    expect(await find('port', { port })).toMatchObject({
      verdict: 'ok',
      detail: `a fluxd listens on ${port} of 127.0.0.1`,
    })
  })

  test('of an address of another machine is a problem', async () => {
    expect(await find('port', { host: '192.0.2.1', port: 5000 })).toMatchObject({
      verdict: 'problem',
      detail: 'fluxd cannot listen on 5000 of 192.0.2.1 (EADDRNOTAVAIL)',
    })
  })
})

test('no key is a warning where the server should be reached from elsewhere', async () => {
  const wide = { host: '0.0.0.0', isLoopback: false }
  expect(await find('API keys', wide)).toMatchObject({
    verdict: 'warning',
    detail: 'none, so the server listens on 127.0.0.1, not on 0.0.0.0',
    fix: 'fluxd keys add NAME',
  })
  expect(await find('API keys', { ...wide, apiKey: 'secret' })).toMatchObject({
    verdict: 'ok',
    detail: 'FLUXD_API_KEY',
  })
})

describe('a model', () => {
  const tiny = (name: string) => join(fixtures, name)

  test.each([
    ['dev', tiny('tiny-dev'), 'ok', tiny('tiny-dev')],
    ['schnell', tiny('tiny-schnell'), 'ok', tiny('tiny-schnell')],
    ['dev', tiny('tiny-schnell'), 'warning', 'is a checkpoint of schnell'],
    ['schnell', tiny('tiny-dev'), 'warning', 'is a checkpoint of dev'],
    ['dev', tiny('absent'), 'problem', 'expected a diffusers folder'],
  ] as const)('%s at %s is %s', async (model, path, verdict, detail) => {
    const checkpoints = { ...makeSetup().checkpoints, [model]: path }
    const finding = await find(`model ${model}`, { checkpoints })
    expect(finding).toMatchObject({ verdict, detail: expect.stringContaining(detail) })
  })
})

test('a safety checker that cannot be opened is a problem', async () => {
  expect(await find('safety checker', { safetyModel: temporaryFolder() })).toMatchObject({
    verdict: 'problem',
  })
  expect(await find('safety checker', { safetyModel: join(fixtures, 'safety') })).toMatchObject({
    verdict: 'ok',
  })
})
