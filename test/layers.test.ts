/**
 * Holds the code to its architecture, imports run one way: which folder of src/ may
 * import which, and where a package may be used.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, normalize, sep } from 'node:path'
import { describe, expect, test } from 'vitest'

const root = join(import.meta.dirname, '../src')

/** The rooms that do the project's plumbing: every room may import them. */
const leaves = ['errors', 'build', 'async'] as const

/**
 * A room is a folder of src/ or a file in it. It may import itself, the leaves and what its row names;
 * an entry with a slash is one file or folder of a room.
 */
const mayImport: Readonly<Record<string, readonly string[]>> = {
  errors: [],
  build: [],
  async: [],
  contract: [],
  plan: ['contract', 'net/redact'],
  predictions: ['plan', 'contract'],
  safetensors: [],
  net: [],
  engine: ['plan', 'safetensors'],
  store: ['predictions', 'plan', 'contract'],
  files: ['predictions', 'contract', 'net', 'store'],
  loras: ['net', 'safetensors', 'plan', 'contract', 'files', 'store/writableFolder'],
  catalog: ['net', 'safetensors', 'plan', 'contract', 'files'],
  config: ['net', 'plan', 'doctor'],
  telemetry: ['contract', 'plan', 'predictions', 'loras'],
  worker: [
    'store',
    'files',
    'loras',
    'net',
    'plan',
    'predictions',
    'contract',
    'telemetry',
    'engine/protocol',
  ],
  server: [
    'store',
    'files',
    'loras',
    'catalog',
    'net',
    'plan',
    'predictions',
    'contract',
    'telemetry',
    'config',
  ],
  bench: ['engine', 'worker', 'plan', 'safetensors', 'doctor'],
  doctor: ['engine', 'store'],
  cli: [
    'bench',
    'catalog',
    'config',
    'contract',
    'doctor',
    'engine',
    'files',
    'loras',
    'net',
    'plan',
    'predictions',
    'safetensors',
    'server',
    'store',
    'telemetry',
    'worker',
  ],
  main: ['cli', 'config', 'plan', 'store'],
}

/** Files (by how their path begins) that may use a package; what is not listed may be used anywhere. */
const mayUse: Readonly<Record<string, readonly string[]>> = {
  fastify: ['server/'],
  '@fastify/cors': ['server/http/'],
  '@fastify/helmet': ['server/http/'],
  '@fastify/multipart': ['server/http/'],
  '@fastify/rate-limit': ['server/http/'],
  'prom-client': ['telemetry/'],
  standardwebhooks: ['server/predictions/'],
  'onnxruntime-node': ['engine/runtime/backends/ort/'],
  sharp: ['engine/images/'],
  protobufjs: ['engine/runtime/onnx/'],
  '@huggingface/tokenizers': ['engine/tokenizers/'],
  '@huggingface/hub': ['net/huggingFace/', 'loras/'],
  'tar-stream': ['loras/'],
  'better-sqlite3': ['store/sqlite/'],
  commander: ['main.ts', 'cli/'],
  'cli-progress': ['cli/'],
  'node:child_process': ['bench/', 'doctor/', 'worker/engine/'],
}

/** Where `process.env` may be read, as `mayUse`. */
const mayReadEnvironment = ['config/', 'engine/runtime/backends/ort/telemetry.ts']

/** What `file` (relative to src/) does that its room may not. */
function listViolations(file: string, source: string): string[] {
  const imports = [...source.matchAll(/(?:\bfrom|\bimport)\s*\(?\s*'([^']+)'/g)].map((m) => m[1]!)
  const faults = imports.filter((specifier) => !isAllowed(file, specifier))
  if (/process\s*\.\s*env\b/.test(source) && !isIn(mayReadEnvironment, file))
    faults.push('process.env')
  return faults.map((fault) => `${file} uses ${fault}`)
}

function isAllowed(file: string, specifier: string): boolean {
  if (!specifier.startsWith('.')) return isIn(mayUse[specifier] ?? [''], file)
  const target = normalize(join(dirname(file), specifier)).replaceAll(sep, '/')
  const [from, to] = [roomOf(file), roomOf(target)]
  if (from === to || leaves.some((leaf) => leaf === to)) return true
  return mayImport[from]?.some((entry) => covers(entry, target)) ?? false
}

/** Whether a row's entry names what is imported: a room as a whole, or `room/part`. */
const covers = (entry: string, target: string) =>
  entry.includes('/') ? target.replace(/\.js$/, '') === entry : roomOf(target) === entry

const roomOf = (file: string) => file.split('/')[0]!.replace(/\.[jt]s$/, '')
const isIn = (places: readonly string[], file: string) =>
  places.some((place) => file.startsWith(place))

const files = readdirSync(root, { recursive: true, encoding: 'utf8' })
  .filter((file) => file.endsWith('.ts'))
  .map((file) => file.replaceAll(sep, '/'))

test('every file of src/ belongs to a room', () => {
  expect(files.length).toBeGreaterThan(20)
  for (const file of files) expect(Object.keys(mayImport)).toContain(roomOf(file))
})

test('no file imports against the direction of its room', () => {
  expect(
    files.flatMap((file) => listViolations(file, readFileSync(join(root, file), 'utf8'))),
  ).toEqual([])
})

test('no room may import itself through others', () => {
  const visit = (room: string, path: readonly string[]): void => {
    expect(path).not.toContain(room)
    for (const next of mayImport[room]!) visit(roomOf(next), [...path, room])
  }
  for (const room of Object.keys(mayImport)) visit(room, [])
})

test('no line of src/ is longer than 100 columns, except for patterns', () => {
  const long = files.flatMap((file) =>
    readFileSync(join(root, file), 'utf8')
      .split('\n')
      .flatMap((line, i) =>
        [...line].length > 100 && !/^\s*\//.test(line) ? [`${file}:${i + 1}`] : [],
      ),
  )
  expect(long).toEqual([])
})

describe('the check', () => {
  test.each([
    ['server/http/sse.ts', "import { run } from '../../engine/pipeline/generate.js'"],
    ['contract/input.ts', "import type { Tensor } from '../safetensors/tensor.js'"],
    ['plan/sizing.ts', "export { serve } from '../server/serve.js'"],
    ['worker/worker.ts', "import { generate } from '../engine/pipeline/generate.js'"],
    ['predictions/cost.ts', "import Fastify, { type A } from 'fastify'"],
    ['safetensors/tensor.ts', "import * as ort from 'onnxruntime-node'"],
    ['engine/pipeline/pixels.ts', "const sharp = await import('sharp')"],
    ['worker/engine/process.ts', "import {\n  a,\n  b,\n} from '../../server/app.js'"],
    ['cli/serve.ts', 'const port = process.env.PORT'],
  ])('sees what is wrong with %s: %s', (file, source) => {
    expect(listViolations(file, source)).toHaveLength(1)
  })

  test.each([
    ['server/http/sse.ts', "import type { A } from '../predictions/service.js'"],
    ['engine/runtime/backends/ort/session.ts', "import * as ort from 'onnxruntime-node'"],
    ['worker/attempt.ts', "import type { EngineEvent } from '../engine/protocol.js'"],
    ['net/fetchMedia.ts', "import { FluxdError } from '../errors.js'"],
    ['config/config.ts', 'const port = process.env.PORT'],
  ])('finds nothing wrong with %s: %s', (file, source) => {
    expect(listViolations(file, source)).toEqual([])
  })
})
