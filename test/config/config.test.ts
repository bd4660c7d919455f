import { mkdtempSync, writeFileSync } from 'node:fs'
import { homedir, tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { inspect } from 'node:util'
import { pino } from 'pino'
import { expect, test } from 'vitest'
import { readConfig } from '../../src/config/config.js'
import { configTable } from '../../src/config/settings.js'

const root = resolve(import.meta.dirname, '../..')

test('an empty environment gives a loopback server with the embedded model', () => {
  expect(readConfig({})).toEqual({
    host: '127.0.0.1',
    port: 5000,
    dataDir: join(homedir(), '.fluxd'),
    checkpoints: {
      dev: join(root, 'models/tiny/dev'),
      schnell: join(root, 'models/tiny/schnell'),
    },
    catalog: { bundled: join(root, 'models/catalog'), own: join(homedir(), '.fluxd/catalog') },
    hosts: {
      huggingFace: { url: 'https://huggingface.co', token: undefined },
      civitai: { url: 'https://civitai.com', token: undefined },
      replicate: { url: 'https://replicate.com', token: undefined },
    },
    allowedHosts: [],
    loras: {
      maxBytes: 2 * 2 ** 30,
      cacheBytes: 20 * 2 ** 30,
      minFreeBytes: 10 * 2 ** 30,
      builtin: join(root, 'models/tiny/loras'),
    },
    gpus: 'all',
    executors: undefined,
    loraPatienceSeconds: 10,
    maxQueue: 1000,
    retentionSeconds: 3600,
    filesBytes: 10 * 2 ** 30,
    drainSeconds: 60,
    publicUrl: undefined,
    outputMode: 'auto',
    cog: { busy: 'queue', model: 'fluxd/flux', uploadUrl: undefined },
    corsOrigins: [],
    apiKey: undefined,
    webhookToken: undefined,
    otlpUrl: undefined,
    noise: 'torch-cuda',
    goFastLoraMultiplier: 1.5,
    safetyModel: undefined,
    device: 'auto',
    backend: 'auto',
    vae: 'float32',
    cudaGraphs: 0,
    threads: 0,
    libraryPath: [],
    logLevel: 'info',
    proxy: { http: undefined, https: undefined, exclude: [] },
    warnings: [],
  })
})

test('every variable has its effect', () => {
  const config = readConfig({
    FLUXD_HOST: '0.0.0.0',
    FLUXD_PORT: '8080',
    FLUXD_DATA_DIR: '/data',
    FLUXD_CHECKPOINT_DEV: '/models/flux1-dev.safetensors',
    FLUXD_CHECKPOINT_SCHNELL: 'relative/schnell',
    FLUXD_HF_URL: 'http://hub.local/',
    FLUXD_HF_TOKEN: 'hf_abc',
    FLUXD_CIVITAI_URL: 'http://civitai.local',
    FLUXD_CIVITAI_TOKEN: 'cv_abc',
    FLUXD_REPLICATE_URL: 'http://replicate.local:81',
    FLUXD_ALLOWED_HOSTS: 'hub.local, 10.0.0.0/8,::1',
    FLUXD_LORA_MAX_BYTES: '512MiB',
    FLUXD_LORA_CACHE_BYTES: '1TiB',
    FLUXD_LORA_MIN_FREE_BYTES: '0B',
    FLUXD_GPUS: '0,2',
    FLUXD_EXECUTORS: '2',
    FLUXD_LORA_PATIENCE: '3',
    FLUXD_MAX_QUEUE: '5',
    FLUXD_RETENTION: '0',
    FLUXD_FILES_BYTES: '2GiB',
    FLUXD_PUBLIC_URL: 'https://flux.example/',
    FLUXD_OUTPUT_MODE: 'data',
    FLUXD_COG_MODEL: 'fofr/shxdo-v2',
    FLUXD_COG_BUSY: '409',
    FLUXD_UPLOAD_URL: 'http://files.internal/flux/',
    FLUXD_DRAIN_SECONDS: '5',
    FLUXD_NOISE: 'torch-cpu',
    FLUXD_GO_FAST_LORA_MULTIPLIER: '2',
    FLUXD_SAFETY_MODEL: '/models/safety',
    FLUXD_CORS_ORIGINS: 'https://app.example, http://localhost:3000',
    FLUXD_API_KEY: 'a-master-key-of-some-length',
    FLUXD_WEBHOOK_TOKEN: 'for-receivers',
    FLUXD_OTLP_URL: 'http://collector:4318/v1/traces',
    FLUXD_DEVICE: 'cuda',
    FLUXD_BACKEND: 'native',
    FLUXD_MEMORY_BYTES: '40GiB',
    LD_LIBRARY_PATH: '/cuda/lib:/cudnn/lib:',
    FLUXD_VAE: 'float16',
    FLUXD_CUDA_GRAPHS: '4',
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
    catalog: { bundled: join(root, 'models/catalog'), own: '/data/catalog' },
    hosts: {
      huggingFace: { url: 'http://hub.local', token: expect.anything() },
      civitai: { url: 'http://civitai.local', token: expect.anything() },
      replicate: { url: 'http://replicate.local:81', token: undefined },
    },
    allowedHosts: ['hub.local', '10.0.0.0/8', '::1'],
    loras: {
      maxBytes: 512 * 2 ** 20,
      cacheBytes: 2 ** 40,
      minFreeBytes: 0,
      builtin: undefined,
    },
    gpus: [0, 2],
    executors: 2,
    loraPatienceSeconds: 3,
    maxQueue: 5,
    retentionSeconds: 0,
    filesBytes: 2 * 2 ** 30,
    drainSeconds: 5,
    publicUrl: 'https://flux.example',
    outputMode: 'data',
    cog: { busy: '409', model: 'fofr/shxdo-v2', uploadUrl: 'http://files.internal/flux' },
    corsOrigins: ['https://app.example', 'http://localhost:3000'],
    apiKey: expect.anything(),
    webhookToken: expect.anything(),
    otlpUrl: 'http://collector:4318/v1/traces',
    noise: 'torch-cpu',
    goFastLoraMultiplier: 2,
    safetyModel: '/models/safety',
    device: 'cuda',
    backend: 'native',
    memoryBytes: 40 * 2 ** 30,
    vae: 'float16',
    cudaGraphs: 4,
    threads: 2,
    libraryPath: ['/cuda/lib', '/cudnn/lib'],
    logLevel: 'debug',
    proxy: { http: undefined, https: undefined, exclude: [] },
    warnings: [],
  })
})

test('in Kubernetes there is a file to touch when the server is ready', () => {
  const { readyFile } = readConfig({ KUBERNETES_SERVICE_HOST: '10.0.0.1' })
  expect(readyFile).toBe('/var/run/cog/ready')
})

test('a model that was pulled takes the place of the embedded one, a setting goes first', () => {
  const pulled = ['/data/models/black-forest-labs--FLUX.1-dev']
  const read = (environment: Readonly<Record<string, string>>) =>
    readConfig({ FLUXD_DATA_DIR: '/data', ...environment }, (path) => pulled.includes(path))
      .checkpoints
  expect(read({})).toEqual({ dev: pulled[0], schnell: join(root, 'models/tiny/schnell') })
  expect(read({ FLUXD_CHECKPOINT_DEV: '/mine' }).dev).toBe('/mine')
})

test('an empty variable counts as unset', () => {
  const empty = Object.fromEntries(configTable().map(({ name }) => [name, '']))
  expect(readConfig(empty)).toEqual(readConfig({}))
})

test.each([
  ['FLUXD_PORT', '65536', 'an integer from 0 to 65535'],
  ['FLUXD_PORT', '0x50', 'an integer from 0 to 65535'],
  ['FLUXD_PORT', '80 ', 'an integer from 0 to 65535'],
  ['FLUXD_GO_FAST_LORA_MULTIPLIER', '-1', 'a number from 0 to 10'],
  ['FLUXD_GO_FAST_LORA_MULTIPLIER', '11', 'a number from 0 to 10'],
  ['FLUXD_VAE', 'bfloat16', 'one of float32, float16'],
  ['FLUXD_CUDA_GRAPHS', '65', 'an integer from 0 to 64'],
  ['FLUXD_THREADS', '-1', 'an integer from 0 to 1024'],
  ['FLUXD_THREADS', '1.5', 'an integer from 0 to 1024'],
  ['FLUXD_HF_URL', 'ftp://huggingface.co', 'an http or https URL'],
  ['FLUXD_HF_URL', 'https://user:secret@huggingface.co', 'an http or https URL'],
  ['FLUXD_ALLOWED_HOSTS', '10.0.0.0/33', 'host names, addresses or ranges such as 10.0.0.0/8'],
  ['FLUXD_LORA_CACHE_BYTES', '20G', 'a size such as 512MiB or 20GiB'],
  ['FLUXD_CORS_ORIGINS', 'app.example', 'origins such as https://app.example'],
  ['FLUXD_BACKEND', 'onnx', 'one of auto, ort, native'],
  ['FLUXD_MEMORY_BYTES', '40', 'a size such as 512MiB or 20GiB'],
  ['FLUXD_NOISE', 'philox', 'one of torch-cuda, torch-cpu'],
  ['FLUXD_LOG_LEVEL', 'INFO', 'one of fatal, error, warn, info, debug, trace, silent'],
])('%s=%j is refused by name, with what was expected', (name, value, expected) => {
  const fault = () => readConfig({ [name]: value })
  expect(fault).toThrow(`Expected ${name} to be ${expected}`)
  expect(fault).toThrow(`but received ${JSON.stringify(value)}`)
})

test('secrets are read and never printed', () => {
  const config = readConfig({ HF_TOKEN: 'hf_secret', FLUXD_CIVITAI_TOKEN: 'cv_secret' })
  expect(config.hosts.huggingFace.token?.reveal()).toBe('hf_secret')
  expect(config.hosts.civitai.token?.reveal()).toBe('cv_secret')
  const lines: string[] = []
  pino({}, { write: (line) => void lines.push(line) }).info({ config }, 'configuration')
  for (const printed of [lines.join(), JSON.stringify(config), inspect(config, { depth: null })]) {
    expect(printed).toContain('***')
    expect(printed).not.toContain('secret')
  }
  expect(`${config.hosts.civitai.token}`).toBe('***')
  expect(() => readConfig({ FLUXD_HF_TOKEN: 'a secret' })).toThrow(
    'Expected FLUXD_HF_TOKEN to be a token without spaces but received ***',
  )
})

test.each([
  ['90', 90],
  ['90s', 90],
  ['15m', 900],
  ['2h', 7200],
  ['7d', 604_800],
  ['0', 0],
])('a time of %s is %d seconds', (FLUXD_RETENTION, seconds) => {
  expect(readConfig({ FLUXD_RETENTION }).retentionSeconds).toBe(seconds)
})

test.each(['1w', '1.5h', '-1', '1h30m', '999999999d'])('a time of %s is refused', (time) => {
  expect(() => readConfig({ FLUXD_RETENTION: time })).toThrow(
    'Expected FLUXD_RETENTION to be seconds from 0 to 999999999, or a time such as 15m, 2h or 7d',
  )
})

test('flags of a command replace the settings that they stand for', () => {
  const flags = { FLUXD_PORT: '1234', FLUXD_HOST: undefined }
  const { port, host } = readConfig({ FLUXD_PORT: '1', FLUXD_HOST: '::1' }, () => false, flags)
  expect([port, host]).toEqual([1234, '::1'])
})

test.each(['a', 'fifteen-letters'])('%s is too short for an API key', (FLUXD_API_KEY) => {
  expect(() => readConfig({ FLUXD_API_KEY })).toThrow(
    'Expected FLUXD_API_KEY to be a token of at least 16 characters without spaces but received ***',
  )
})

test('a secret may be given as the file that holds it', () => {
  const folder = mkdtempSync(join(tmpdir(), 'fluxd-config-'))
  const file = join(folder, 'key')
  writeFileSync(file, 'a-key-from-a-file\n')
  expect(readConfig({ FLUXD_API_KEY_FILE: file }).apiKey?.reveal()).toBe('a-key-from-a-file')
  expect(readConfig({ FLUXD_API_KEY_FILE: '/dev/null' }).apiKey).toBeUndefined()
  expect(() => readConfig({ FLUXD_API_KEY_FILE: join(folder, 'absent') })).toThrow(
    'Expected FLUXD_API_KEY_FILE to be a file that can be read',
  )
})

test("fluxd's own name for the Hugging Face token goes first", () => {
  const { hosts } = readConfig({ HF_TOKEN: 'theirs', FLUXD_HF_TOKEN: 'ours' })
  expect(hosts.huggingFace.token?.reveal()).toBe('ours')
})

test('the configuration cannot be changed', () => {
  const config = readConfig({})
  expect(Object.isFrozen(config)).toBe(true)
  expect(Object.isFrozen(config.checkpoints)).toBe(true)
})

test('the table has the published variables, each with its default and meaning', () => {
  expect(configTable().map(({ name, fallback }) => `${name}=${fallback}`)).toEqual([
    'FLUXD_HOST=127.0.0.1',
    'FLUXD_PORT=5000',
    'FLUXD_DATA_DIR=~/.fluxd',
    'FLUXD_CHECKPOINT_DEV=models/tiny/dev',
    'FLUXD_CHECKPOINT_SCHNELL=models/tiny/schnell',
    'FLUXD_HF_URL=https://huggingface.co',
    'FLUXD_HF_TOKEN=',
    'FLUXD_CIVITAI_URL=https://civitai.com',
    'FLUXD_CIVITAI_TOKEN=',
    'FLUXD_REPLICATE_URL=https://replicate.com',
    'FLUXD_ALLOWED_HOSTS=',
    'FLUXD_LORA_MAX_BYTES=2GiB',
    'FLUXD_LORA_CACHE_BYTES=20GiB',
    'FLUXD_LORA_MIN_FREE_BYTES=10GiB',
    'FLUXD_GPUS=all',
    'FLUXD_EXECUTORS=',
    'FLUXD_LORA_PATIENCE=10',
    'FLUXD_MAX_QUEUE=1000',
    'FLUXD_RETENTION=3600',
    'FLUXD_FILES_BYTES=10GiB',
    'FLUXD_PUBLIC_URL=',
    'FLUXD_OUTPUT_MODE=auto',
    'FLUXD_COG_MODEL=fluxd/flux',
    'FLUXD_COG_BUSY=queue',
    'FLUXD_UPLOAD_URL=',
    'FLUXD_DRAIN_SECONDS=60',
    'FLUXD_CORS_ORIGINS=',
    'FLUXD_API_KEY=',
    'FLUXD_WEBHOOK_TOKEN=',
    'FLUXD_OTLP_URL=',
    'FLUXD_NOISE=torch-cuda',
    'FLUXD_GO_FAST_LORA_MULTIPLIER=1.5',
    'FLUXD_SAFETY_MODEL=',
    'FLUXD_DEVICE=auto',
    'FLUXD_BACKEND=auto',
    'FLUXD_MEMORY_BYTES=',
    'FLUXD_VAE=float32',
    'FLUXD_CUDA_GRAPHS=0',
    'FLUXD_THREADS=0',
    'FLUXD_LOG_LEVEL=info',
  ])
  expect(configTable().every(({ meaning }) => meaning.length > 10)).toBe(true)
})
