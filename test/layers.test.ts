/**
 * Holds the code to its architecture, imports run one way: which folder of src/ may
 * import which, and where a package may be used.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, normalize, sep } from 'node:path'
import { describe, expect, test } from 'vitest'

const root = join(import.meta.dirname, '../src')

/** A layer is a folder of src/ or a file in it; it may import itself and what its row names. */
const mayImport: Readonly<Record<string, readonly string[]>> = {
  errors: [],
  build: [],
  doctor: ['native'],
  contract: [],
  native: ['errors'],
  runtime: ['native', 'errors'],
  tokenizers: ['errors'],
  flux: ['runtime', 'errors'],
  checkpoint: ['flux', 'runtime', 'errors'],
  lora: ['checkpoint', 'flux', 'runtime', 'native', 'errors'],
  plan: ['contract', 'errors'],
  media: ['plan', 'errors'],
  library: ['lora', 'media', 'runtime', 'errors'],
  settings: ['doctor', 'plan', 'errors'],
  config: ['settings', 'doctor', 'plan', 'errors'],
  catalog: ['contract', 'plan', 'runtime', 'errors'],
  pipeline: ['plan', 'media', 'tokenizers', 'flux', 'checkpoint', 'lora', 'runtime', 'errors'],
  engine: ['plan', 'media', 'pipeline', 'runtime', 'errors'],
  bench: [
    'build',
    'checkpoint',
    'doctor',
    'engine',
    'errors',
    'flux',
    'pipeline',
    'plan',
    'runtime',
    'tokenizers',
  ],
  store: ['contract', 'errors'],
  files: ['store', 'errors'],
  access: ['store', 'errors'],
  telemetry: ['contract', 'plan', 'engine', 'library', 'errors'],
  predictions: ['contract', 'plan', 'media', 'engine', 'library', 'files', 'store', 'errors'],
  http: [
    'access',
    'contract',
    'catalog',
    'media',
    'files',
    'store',
    'predictions',
    'engine',
    'telemetry',
    'errors',
  ],
  services: ['access', 'config', 'catalog', 'library', 'media', 'files', 'store', 'errors'],
  reporting: [
    'build',
    'config',
    'contract',
    'engine',
    'http',
    'predictions',
    'services',
    'store',
    'telemetry',
  ],
  parts: ['config', 'engine', 'http', 'media', 'predictions', 'reporting', 'services'],
  app: [
    'access',
    'build',
    'config',
    'contract',
    'engine',
    'http',
    'parts',
    'predictions',
    'services',
    'store',
  ],
  cli: [
    'access',
    'app',
    'bench',
    'catalog',
    'config',
    'contract',
    'doctor',
    'media',
    'plan',
    'predictions',
    'engine',
    'library',
    'lora',
    'checkpoint',
    'runtime',
    'services',
    'store',
    'errors',
  ],
  main: ['build', 'cli', 'config', 'plan', 'store', 'errors'],
}

/** Files (by how their path begins) that may use a package; what is not listed may be used anywhere. */
const mayUse: Readonly<Record<string, readonly string[]>> = {
  fastify: ['http/', 'app.ts', 'parts.ts'],
  '@fastify/cors': ['http/'],
  '@fastify/helmet': ['http/'],
  '@fastify/multipart': ['http/'],
  '@fastify/rate-limit': ['http/'],
  'prom-client': ['telemetry/'],
  standardwebhooks: ['predictions/'],
  'onnxruntime-node': ['runtime/session.ts'],
  sharp: ['media/'],
  protobufjs: ['runtime/'],
  '@huggingface/tokenizers': ['tokenizers/'],
  '@huggingface/hub': ['library/'],
  'tar-stream': ['library/'],
  'better-sqlite3': ['store/'],
  commander: ['main.ts', 'cli/'],
  'cli-progress': ['cli/'],
  'node:child_process': ['bench/', 'doctor/', 'engine/'],
}

/** Where `process.env` may be read, as `mayUse`. */
const mayReadEnvironment = ['config.ts']

/** What `file` (relative to src/) does that its layer may not. */
function listViolations(file: string, source: string): string[] {
  const imports = [...source.matchAll(/(?:\bfrom|\bimport)\s*\(?\s*'([^']+)'/g)].map((m) => m[1]!)
  const faults = imports.filter((specifier) => !isAllowed(file, specifier))
  if (/process\s*\.\s*env\b/.test(source) && !isIn(mayReadEnvironment, file))
    faults.push('process.env')
  return faults.map((fault) => `${file} uses ${fault}`)
}

function isAllowed(file: string, specifier: string): boolean {
  if (!specifier.startsWith('.')) return isIn(mayUse[specifier] ?? [''], file)
  const [from, to] = [layerOf(file), layerOf(normalize(join(dirname(file), specifier)))]
  return from === to || (mayImport[from]?.includes(to) ?? false)
}

const layerOf = (file: string) => file.split('/')[0]!.replace(/\.[jt]s$/, '')
const isIn = (places: readonly string[], file: string) =>
  places.some((place) => file.startsWith(place))

const files = readdirSync(root, { recursive: true, encoding: 'utf8' })
  .filter((file) => file.endsWith('.ts'))
  .map((file) => file.replaceAll(sep, '/'))

test('every file of src/ belongs to a layer', () => {
  expect(files.length).toBeGreaterThan(20)
  for (const file of files) expect(Object.keys(mayImport)).toContain(layerOf(file))
})

test('no file imports against the direction of its layer', () => {
  expect(
    files.flatMap((file) => listViolations(file, readFileSync(join(root, file), 'utf8'))),
  ).toEqual([])
})

test('no layer may import itself through others', () => {
  const visit = (layer: string, path: readonly string[]): void => {
    expect(path).not.toContain(layer)
    for (const next of mayImport[layer]!) visit(next, [...path, layer])
  }
  for (const layer of Object.keys(mayImport)) visit(layer, [])
})

describe('the check', () => {
  test.each([
    ['http/cog.ts', "import { run } from '../pipeline/generate.js'"],
    ['contract/input.ts', "import type { Tensor } from '../runtime/tensor.js'"],
    ['plan/sizing.ts', "export { serve } from '../http/cog.js'"],
    ['predictions/service.ts', "import Fastify, { type A } from 'fastify'"],
    ['runtime/tensor.ts', "import * as ort from 'onnxruntime-node'"],
    ['pipeline/pixels.ts', "const sharp = await import('sharp')"],
    ['engine/process.ts', "import {\n  a,\n  b,\n} from '../http/cog.js'"],
    ['cli/serve.ts', 'const port = process.env.PORT'],
  ])('sees what is wrong with %s: %s', (file, source) => {
    expect(listViolations(file, source)).toHaveLength(1)
  })

  test.each([
    ['http/cog.ts', "import type { Predictions } from '../predictions/service.js'"],
    ['runtime/session.ts', "import * as ort from 'onnxruntime-node'"],
    [
      'engine/worker.ts',
      "import { generate } from '../pipeline/generate.js'\nimport './protocol.js'",
    ],
    ['config.ts', 'const port = process.env.PORT'],
  ])('finds nothing wrong with %s: %s', (file, source) => {
    expect(listViolations(file, source)).toEqual([])
  })
})
