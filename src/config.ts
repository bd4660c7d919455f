/**
 * The settings of the process: the only reader of the environment. `settings` is the table the
 * README shows; every variable has a default, and a bad value ends the start with its name.
 */
import { homedir } from 'node:os'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { z } from 'zod'
import { invalidConfig } from './errors.js'
import { type NoiseSource, noiseSources, type Variant } from './plan/plan.js'

export const logLevels = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'] as const
export type LogLevel = (typeof logLevels)[number]

export type Config = {
  readonly host: string
  readonly port: number
  /** An absolute path, as are the checkpoints. */
  readonly dataDir: string
  readonly checkpoints: Readonly<Record<Variant, string>>
  readonly noise: NoiseSource
  readonly threads: number
  readonly logLevel: LogLevel
}

/** The folder of package.json, for `src/` and `dist/` alike. */
const packageRoot = fileURLToPath(new URL('..', import.meta.url))

/** A decimal integer: not '', '0x10', '1e3' or '5000 '. */
const integer = (minimum: number, maximum: number) =>
  z
    .string()
    .refine((text) => /^\d{1,9}$/.test(text) && isWithin(Number(text), minimum, maximum))
    .transform(Number)
    .meta({ expects: `an integer from ${minimum} to ${maximum}` })

const choice = <const T extends readonly string[]>(values: T) =>
  z.enum(values).meta({ expects: `one of ${values.join(', ')}` })

const text = (expects: string) => z.string().meta({ expects })

const settings = {
  FLUXD_HOST: {
    schema: text('a host name or address'),
    fallback: '127.0.0.1',
    meaning: 'Address to listen on; the default is reachable from this machine only',
  },
  FLUXD_PORT: {
    schema: integer(0, 65535),
    fallback: '5000',
    meaning: 'Port to listen on; 0 takes a free one',
  },
  FLUXD_DATA_DIR: {
    schema: text('a folder'),
    fallback: '~/.fluxd',
    meaning: 'Folder for what fluxd keeps between starts',
  },
  FLUXD_CHECKPOINT_DEV: {
    schema: text('a diffusers folder or a BFL file'),
    fallback: 'models/tiny/dev',
    meaning: 'Checkpoint of model `dev`: a diffusers folder or a BFL file',
  },
  FLUXD_CHECKPOINT_SCHNELL: {
    schema: text('a diffusers folder or a BFL file'),
    fallback: 'models/tiny/schnell',
    meaning: 'Checkpoint of model `schnell`: a diffusers folder or a BFL file',
  },
  FLUXD_NOISE: {
    schema: choice(noiseSources),
    fallback: 'torch-cuda',
    meaning: "Whose random numbers a seed means: torch's on a GPU or on the CPU",
  },
  FLUXD_THREADS: {
    schema: integer(0, 1024),
    fallback: '0',
    meaning: 'Threads that compute; 0 lets ONNX Runtime decide',
  },
  FLUXD_LOG_LEVEL: {
    schema: choice(logLevels),
    fallback: 'info',
    meaning: 'The least severe messages that are logged',
  },
} as const

type Settings = typeof settings
type SettingName = keyof Settings
export type Environment = Readonly<Record<string, string | undefined>>

/** The settings in `environment`, frozen; an empty variable counts as unset. Throws on a bad value. */
export function readConfig(environment: Environment = process.env): Config {
  const read = <N extends SettingName>(name: N) => readSetting(name, environment)
  const checkpoint = (name: 'FLUXD_CHECKPOINT_DEV' | 'FLUXD_CHECKPOINT_SCHNELL') =>
    environment[name] ? resolvePath(read(name)) : join(packageRoot, settings[name].fallback)
  return Object.freeze({
    host: read('FLUXD_HOST'),
    port: read('FLUXD_PORT'),
    dataDir: resolvePath(read('FLUXD_DATA_DIR')),
    checkpoints: Object.freeze({
      dev: checkpoint('FLUXD_CHECKPOINT_DEV'),
      schnell: checkpoint('FLUXD_CHECKPOINT_SCHNELL'),
    }),
    noise: read('FLUXD_NOISE'),
    threads: read('FLUXD_THREADS'),
    logLevel: read('FLUXD_LOG_LEVEL'),
  })
}

/** A row for each variable, for the README's table. */
export const configTable = () =>
  Object.entries(settings).map(([name, { fallback, meaning }]) => ({ name, fallback, meaning }))

function readSetting<N extends SettingName>(
  name: N,
  environment: Environment,
): z.output<Settings[N]['schema']> {
  const { schema, fallback } = settings[name]
  const value = environment[name] || fallback
  const parsed = schema.safeParse(value)
  if (parsed.success) return parsed.data as z.output<Settings[N]['schema']>
  throw invalidConfig(
    `Expected ${name} to be ${schema.meta()?.['expects']} but received ${JSON.stringify(value)}`,
  )
}

const resolvePath = (path: string) => resolve(path.replace(/^~(?=\/|$)/, homedir()))

const isWithin = (value: number, minimum: number, maximum: number) =>
  value >= minimum && value <= maximum
