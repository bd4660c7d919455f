import { homedir } from 'node:os'
import { join, resolve } from 'node:path'
import { expect, test } from 'vitest'
import { configTable, readConfig } from '../src/config.js'

const root = resolve(import.meta.dirname, '..')

test('an empty environment gives a loopback server with the embedded model', () => {
  expect(readConfig({})).toEqual({
    host: '127.0.0.1',
    port: 5000,
    dataDir: join(homedir(), '.fluxd'),
    checkpoints: {
      dev: join(root, 'models/tiny/dev'),
      schnell: join(root, 'models/tiny/schnell'),
    },
    noise: 'torch-cuda',
    threads: 0,
    logLevel: 'info',
  })
})

test('every variable is heard', () => {
  const config = readConfig({
    FLUXD_HOST: '0.0.0.0',
    FLUXD_PORT: '8080',
    FLUXD_DATA_DIR: '/data',
    FLUXD_CHECKPOINT_DEV: '/models/flux1-dev.safetensors',
    FLUXD_CHECKPOINT_SCHNELL: 'relative/schnell',
    FLUXD_NOISE: 'torch-cpu',
    FLUXD_THREADS: '2',
    FLUXD_LOG_LEVEL: 'debug',
  })
  expect(config).toEqual({
    host: '0.0.0.0',
    port: 8080,
    dataDir: '/data',
    checkpoints: {
      dev: '/models/flux1-dev.safetensors',
      schnell: resolve('relative/schnell'),
    },
    noise: 'torch-cpu',
    threads: 2,
    logLevel: 'debug',
  })
})

test('an empty variable counts as unset', () => {
  const empty = Object.fromEntries(configTable().map(({ name }) => [name, '']))
  expect(readConfig(empty)).toEqual(readConfig({}))
})

test.each([
  ['FLUXD_PORT', '65536', 'an integer from 0 to 65535'],
  ['FLUXD_PORT', '0x50', 'an integer from 0 to 65535'],
  ['FLUXD_PORT', '80 ', 'an integer from 0 to 65535'],
  ['FLUXD_THREADS', '-1', 'an integer from 0 to 1024'],
  ['FLUXD_THREADS', '1.5', 'an integer from 0 to 1024'],
  ['FLUXD_NOISE', 'philox', 'one of torch-cuda, torch-cpu'],
  ['FLUXD_LOG_LEVEL', 'INFO', 'one of fatal, error, warn, info, debug, trace, silent'],
])('%s=%j is refused by name, with what was expected', (name, value, expected) => {
  expect(() => readConfig({ [name]: value })).toThrow(
    `Expected ${name} to be ${expected} but received ${JSON.stringify(value)}`,
  )
})

test('the configuration cannot be changed', () => {
  const config = readConfig({})
  expect(Object.isFrozen(config)).toBe(true)
  expect(Object.isFrozen(config.checkpoints)).toBe(true)
})

test('the table has the eight published variables, each with its default and meaning', () => {
  expect(configTable().map(({ name, fallback }) => `${name}=${fallback}`)).toEqual([
    'FLUXD_HOST=127.0.0.1',
    'FLUXD_PORT=5000',
    'FLUXD_DATA_DIR=~/.fluxd',
    'FLUXD_CHECKPOINT_DEV=models/tiny/dev',
    'FLUXD_CHECKPOINT_SCHNELL=models/tiny/schnell',
    'FLUXD_NOISE=torch-cuda',
    'FLUXD_THREADS=0',
    'FLUXD_LOG_LEVEL=info',
  ])
  expect(configTable().every(({ meaning }) => meaning.length > 10)).toBe(true)
})
