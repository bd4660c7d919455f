/**
 * The configuration of the process, the only reader of the environment. Every variable has a
 * default, and a bad value ends the start with its name.
 */
import { readFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { z } from 'zod'
import type { BackendChoice, DeviceChoice } from '../doctor/diagnosis.js'
import { invalidConfig } from '../errors.js'
import type { ProxySettings } from '../net/proxy.js'
import type { NoiseSource, Variant } from '../plan/plan.js'
import type { Secret } from './parsers.js'
import { readProxies } from './proxy.js'
import {
  type CogBusy,
  type LogLevel,
  type OutputMode,
  type SettingName,
  type Settings,
  settings,
  type VaeChoice,
} from './settings.js'
import { describeUnknown } from './unknownSettings.js'

export type Config = {
  readonly host: string
  readonly port: number
  /** An absolute path, as are the checkpoints. */
  readonly dataDir: string
  readonly checkpoints: Readonly<Record<Variant, string>>
  /** Folders of named models: the bundled ones, and the user's. */
  readonly catalog: { readonly bundled: string; readonly own: string }
  /** The servers that LoRA references lead to; a token is sent to its own host only. */
  readonly hosts: Readonly<Record<'huggingFace' | 'civitai' | 'replicate', Host>>
  /** Names, addresses and ranges that may be connected to although they are not public. */
  readonly allowedHosts: readonly string[]
  /** Sizes in bytes; `builtin` is the folder of the LoRAs that fit the embedded models only. */
  readonly loras: {
    readonly maxBytes: number
    readonly cacheBytes: number
    readonly minFreeBytes: number
    readonly builtin: string | undefined
  }
  /** The GPUs that this process computes on, by CUDA's index. */
  readonly gpus: 'all' | 'none' | readonly number[]
  /** The number of engines where there is no GPU. */
  readonly executors: number | undefined
  /** Seconds for which the head of the queue may be overtaken for LoRAs that are in place. */
  readonly loraPatienceSeconds: number
  /** The limit of queued predictions. */
  readonly maxQueue: number
  /** Seconds that the data of an ended prediction is kept; 0 means for ever. */
  readonly retentionSeconds: number
  /** The limit for the bytes of all uploads, inputs and outputs together. */
  readonly filesBytes: number
  readonly drainSeconds: number
  readonly publicUrl: string | undefined
  readonly outputMode: OutputMode
  readonly cog: {
    readonly busy: CogBusy
    /** `owner/name`. */
    readonly model: string
    readonly uploadUrl: string | undefined
  }
  /** Origins of web pages that may call this server; `*` is all. */
  readonly corsOrigins: readonly string[]
  /** The operator's own key, which has all scopes. */
  readonly apiKey: Secret | undefined
  /** Sent to receivers of webhooks as `Authorization: Bearer`. */
  readonly webhookToken: Secret | undefined
  /** The OTLP collector that spans are sent to. */
  readonly otlpUrl: string | undefined
  readonly noise: NoiseSource
  /** The safety checker's folder, an absolute path; undefined if none is configured. */
  readonly safetyModel: string | undefined
  /** The factor of LoRA scales with `go_fast`. */
  readonly goFastLoraMultiplier: number
  readonly device: DeviceChoice
  /** The limit of memory for networks and their runs; undefined leaves it to the machine. */
  readonly memoryBytes: number | undefined
  readonly backend: BackendChoice
  readonly vae: VaeChoice
  /** The number of image sizes whose step is replayed as a CUDA graph. */
  readonly cudaGraphs: number
  readonly threads: number
  /** Made when the server is ready: Kubernetes probes it in a Cog container. */
  readonly readyFile: string | undefined
  /** The folders of LD_LIBRARY_PATH. */
  readonly libraryPath: readonly string[]
  /** Proxies for what is downloaded and sent, from the environment. */
  readonly proxy: ProxySettings
  readonly logLevel: LogLevel
  /**
   * Sentences about variables that have no effect: settings that do not exist, proxies that cannot
   * be used.
   */
  readonly warnings: readonly string[]
}

export type Host = { readonly url: string; readonly token: Secret | undefined }

/** The folder of package.json, for `src/` and `dist/` alike. */
const packageRoot = fileURLToPath(new URL('../..', import.meta.url))

/** The folder of the models that are part of the package. */
export const embeddedModels = join(packageRoot, 'models/tiny')

export type Environment = Readonly<Record<string, string | undefined>>

/** Where `fluxd pull dev` and `fluxd pull schnell` put a model, relative to the data folder. */
const pulledModels = {
  FLUXD_CHECKPOINT_DEV: 'models/black-forest-labs--FLUX.1-dev',
  FLUXD_CHECKPOINT_SCHNELL: 'models/black-forest-labs--FLUX.1-schnell',
} as const

/**
 * The settings in `variables`, frozen; an empty variable counts as unset, and `flags` replace what
 * they name. A pulled model, for which `isThere` is true, replaces the embedded one. Throws
 * `config_invalid` on a bad value.
 */
export function readConfig(
  variables: Environment = process.env,
  isThere: (path: string) => boolean = () => false,
  flags: Environment = {},
): Config {
  const environment = { ...withSecretFiles(variables), ...withoutUnset(flags) }
  const read = <N extends SettingName>(name: N) => readSetting(name, environment)
  const dataDir = resolvePath(read('FLUXD_DATA_DIR'))
  const checkpoint = (name: keyof typeof pulledModels) => {
    if (environment[name]) return resolvePath(read(name))
    const pulled = join(dataDir, pulledModels[name])
    return isThere(pulled) ? pulled : embedded(name)
  }
  const { proxy, warnings } = readProxies(variables)
  const isEmbedded = checkpointNames.every((name) => checkpoint(name) === embedded(name))
  return Object.freeze({
    host: read('FLUXD_HOST'),
    port: read('FLUXD_PORT'),
    dataDir,
    checkpoints: Object.freeze({
      dev: checkpoint('FLUXD_CHECKPOINT_DEV'),
      schnell: checkpoint('FLUXD_CHECKPOINT_SCHNELL'),
    }),
    catalog: Object.freeze({
      bundled: join(packageRoot, 'models/catalog'),
      own: join(dataDir, 'catalog'),
    }),
    hosts: Object.freeze({
      huggingFace: {
        url: read('FLUXD_HF_URL'),
        token: readSetting('FLUXD_HF_TOKEN', {
          FLUXD_HF_TOKEN: environment['FLUXD_HF_TOKEN'] || environment['HF_TOKEN'],
        }),
      },
      civitai: { url: read('FLUXD_CIVITAI_URL'), token: read('FLUXD_CIVITAI_TOKEN') },
      replicate: { url: read('FLUXD_REPLICATE_URL'), token: undefined },
    }),
    allowedHosts: read('FLUXD_ALLOWED_HOSTS'),
    loras: Object.freeze({
      maxBytes: read('FLUXD_LORA_MAX_BYTES'),
      cacheBytes: read('FLUXD_LORA_CACHE_BYTES'),
      minFreeBytes: read('FLUXD_LORA_MIN_FREE_BYTES'),
      builtin: isEmbedded ? join(packageRoot, 'models/tiny/loras') : undefined,
    }),
    gpus: read('FLUXD_GPUS') as Config['gpus'],
    executors: read('FLUXD_EXECUTORS'),
    loraPatienceSeconds: read('FLUXD_LORA_PATIENCE'),
    maxQueue: read('FLUXD_MAX_QUEUE'),
    retentionSeconds: read('FLUXD_RETENTION'),
    filesBytes: read('FLUXD_FILES_BYTES'),
    drainSeconds: read('FLUXD_DRAIN_SECONDS'),
    publicUrl: read('FLUXD_PUBLIC_URL'),
    outputMode: read('FLUXD_OUTPUT_MODE'),
    cog: Object.freeze({
      busy: read('FLUXD_COG_BUSY'),
      model: read('FLUXD_COG_MODEL'),
      uploadUrl: read('FLUXD_UPLOAD_URL'),
    }),
    corsOrigins: read('FLUXD_CORS_ORIGINS'),
    apiKey: read('FLUXD_API_KEY'),
    webhookToken: read('FLUXD_WEBHOOK_TOKEN'),
    otlpUrl: read('FLUXD_OTLP_URL'),
    noise: read('FLUXD_NOISE'),
    goFastLoraMultiplier: read('FLUXD_GO_FAST_LORA_MULTIPLIER'),
    safetyModel: read('FLUXD_SAFETY_MODEL') ? resolvePath(read('FLUXD_SAFETY_MODEL')) : undefined,
    device: read('FLUXD_DEVICE'),
    memoryBytes: read('FLUXD_MEMORY_BYTES'),
    backend: read('FLUXD_BACKEND'),
    vae: read('FLUXD_VAE'),
    cudaGraphs: read('FLUXD_CUDA_GRAPHS'),
    threads: read('FLUXD_THREADS'),
    readyFile: environment['KUBERNETES_SERVICE_HOST'] ? '/var/run/cog/ready' : undefined,
    libraryPath: (environment['LD_LIBRARY_PATH'] ?? '').split(':').filter(Boolean),
    logLevel: read('FLUXD_LOG_LEVEL'),
    proxy,
    warnings: Object.freeze([...describeUnknown(variables, knownNames), ...warnings]),
  })
}

function readSetting<N extends SettingName>(
  name: N,
  environment: Environment,
): z.output<Settings[N]['schema']> {
  const { schema, fallback } = settings[name]
  const value = environment[name] || fallback
  const parsed = schema.safeParse(value)
  if (parsed.success) return parsed.data as z.output<Settings[N]['schema']>
  const { expects, secret: isSecret } = schema.meta() ?? {}
  throw invalidConfig(
    `Expected ${name} to be ${expects} but received ${isSecret ? '***' : JSON.stringify(value)}`,
  )
}

/** Reads secrets from files: `FLUXD_API_KEY_FILE` names the file that holds `FLUXD_API_KEY`. */
function withSecretFiles(environment: Environment): Environment {
  const secrets = Object.entries(settings).flatMap(([name, { schema }]) => {
    const file = environment[`${name}_FILE`]
    return schema.meta()?.['secret'] && file ? [[name, readSecretFile(`${name}_FILE`, file)]] : []
  })
  return { ...environment, ...Object.fromEntries(secrets) }
}

function readSecretFile(name: string, file: string): string {
  try {
    return readFileSync(file, 'utf8').trim()
  } catch (cause) {
    throw invalidConfig(
      `Expected ${name} to be a file that can be read but received ${file} (${cause})`,
    )
  }
}

/** Every setting, and the names of files for those that are secrets. */
const knownNames = Object.entries(settings).flatMap(([name, { schema }]) =>
  schema.meta()?.['secret'] ? [name, `${name}_FILE`] : [name],
)

/** The flags of a command that were given, as the settings that they stand for. */
const withoutUnset = (flags: Environment): Environment =>
  Object.fromEntries(Object.entries(flags).filter(([, value]) => value !== undefined))

const checkpointNames = Object.keys(pulledModels) as (keyof typeof pulledModels)[]
const embedded = (name: keyof typeof pulledModels) => join(packageRoot, settings[name].fallback)

const resolvePath = (path: string) => resolve(path.replace(/^~(?=\/|$)/, homedir()))
