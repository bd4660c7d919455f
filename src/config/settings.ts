/** The table of settings, in the order of the documentation. Every variable has a default. */
import { backendChoices, deviceChoices } from '../doctor/diagnosis.js'
import { noiseSources } from '../plan/plan.js'
import {
  apiKey,
  bytes,
  choice,
  decimal,
  duration,
  gpuChoice,
  hostList,
  integer,
  optionalBytes,
  optionalInteger,
  optionalUrl,
  originList,
  secret,
  text,
  url,
} from './parsers.js'

export const outputModes = ['auto', 'url', 'data'] as const
export type OutputMode = (typeof outputModes)[number]

/** What `/predictions` does while another prediction runs: queue the request, or answer 409. */
export const cogBusyChoices = ['queue', '409'] as const
export type CogBusy = (typeof cogBusyChoices)[number]

/** The precision of the autoencoder's decoder. */
export const vaeChoices = ['float32', 'float16'] as const
export type VaeChoice = (typeof vaeChoices)[number]

export const logLevels = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'] as const
export type LogLevel = (typeof logLevels)[number]

export const settings = {
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
  FLUXD_HF_URL: {
    schema: url,
    fallback: 'https://huggingface.co',
    meaning: 'Where LoRAs and models of `huggingface.co` come from',
  },
  FLUXD_HF_TOKEN: {
    schema: secret,
    fallback: '',
    meaning: 'Token for private and gated repositories; `HF_TOKEN` counts too',
  },
  FLUXD_CIVITAI_URL: {
    schema: url,
    fallback: 'https://civitai.com',
    meaning: 'Where `civitai.com/…` LoRAs come from',
  },
  FLUXD_CIVITAI_TOKEN: {
    schema: secret,
    fallback: '',
    meaning: 'Token for LoRAs that CivitAI gives to its users only',
  },
  FLUXD_REPLICATE_URL: {
    schema: url,
    fallback: 'https://replicate.com',
    meaning: 'Where `owner/name` LoRAs come from',
  },
  FLUXD_ALLOWED_HOSTS: {
    schema: hostList,
    fallback: '',
    meaning: 'Hosts, addresses or ranges that URLs may name although they are not public',
  },
  FLUXD_LORA_MAX_BYTES: {
    schema: bytes,
    fallback: '2GiB',
    meaning: 'Largest LoRA that is fetched',
  },
  FLUXD_LORA_CACHE_BYTES: {
    schema: bytes,
    fallback: '20GiB',
    meaning: 'Room for fetched LoRAs; the ones used longest ago go first',
  },
  FLUXD_LORA_MIN_FREE_BYTES: {
    schema: bytes,
    fallback: '10GiB',
    meaning: 'What fetched LoRAs leave free on the disk',
  },
  FLUXD_GPUS: {
    schema: gpuChoice,
    fallback: 'all',
    meaning:
      'Which GPUs this process computes on, an engine each: `all`, ' +
      'their numbers such as `0,1`, or `none`',
  },
  FLUXD_EXECUTORS: {
    schema: optionalInteger(1, 64),
    fallback: '',
    meaning: 'How many engines a machine without a GPU has; 1 by default',
  },
  FLUXD_LORA_PATIENCE: {
    schema: integer(0, 3600),
    fallback: '10',
    meaning:
      'Seconds for which the first of the queue may be overtaken by predictions ' +
      'whose LoRAs are in place; 0 never',
  },
  FLUXD_MAX_QUEUE: {
    schema: integer(1, 100_000),
    fallback: '1000',
    meaning: 'How many predictions may wait; one more is answered with 429',
  },
  FLUXD_RETENTION: {
    schema: duration(999_999_999),
    fallback: '3600',
    meaning:
      'Seconds until input, output and log of a finished prediction are removed; 0 keeps them',
  },
  FLUXD_FILES_BYTES: {
    schema: bytes,
    fallback: '10GiB',
    meaning: 'Room for uploads, long inputs and outputs together',
  },
  FLUXD_PUBLIC_URL: {
    schema: optionalUrl,
    fallback: '',
    meaning: 'Where clients reach this server; by default the host that a request was sent to',
  },
  FLUXD_OUTPUT_MODE: {
    schema: choice(outputModes),
    fallback: 'auto',
    meaning:
      'Images on `/v1` as URLs or as data URIs; `auto` is URLs unless a request asks for data or ' +
      'comes from a Replicate client over http',
  },
  FLUXD_COG_MODEL: {
    schema: text('OWNER/NAME'),
    fallback: 'fluxd/flux',
    meaning: 'The model that `/predictions` serves',
  },
  FLUXD_COG_BUSY: {
    schema: choice(cogBusyChoices),
    fallback: 'queue',
    meaning: 'What `/predictions` does while another prediction runs: wait, or answer with 409',
  },
  FLUXD_UPLOAD_URL: {
    schema: optionalUrl,
    fallback: '',
    meaning: 'Where pictures of `/predictions` are PUT; by default they are data URIs',
  },
  FLUXD_DRAIN_SECONDS: {
    schema: duration(86_400),
    fallback: '60',
    meaning: 'How long a server that is told to stop lets the running prediction go on',
  },
  FLUXD_CORS_ORIGINS: {
    schema: originList,
    fallback: '',
    meaning: 'Origins of web pages that may call this server, separated by commas; `*` is all',
  },
  FLUXD_API_KEY: {
    schema: apiKey,
    fallback: '',
    meaning: 'A key that may do everything; more are made with `fluxd keys add`',
  },
  FLUXD_WEBHOOK_TOKEN: {
    schema: secret,
    fallback: '',
    meaning: 'What receivers of webhooks get as `Authorization: Bearer`',
  },
  FLUXD_OTLP_URL: {
    schema: optionalUrl,
    fallback: '',
    meaning: 'OpenTelemetry collector, such as `http://collector:4318/v1/traces`; empty tells none',
  },
  FLUXD_NOISE: {
    schema: choice(noiseSources),
    fallback: 'torch-cuda',
    meaning: "Whose random numbers a seed means: torch's on a GPU or on the CPU",
  },
  FLUXD_GO_FAST_LORA_MULTIPLIER: {
    schema: decimal(10),
    fallback: '1.5',
    meaning: 'What `go_fast` multiplies LoRA scales by, as published; 1 leaves them as they are',
  },
  FLUXD_SAFETY_MODEL: {
    schema: text('a folder with safety_checker/ and nsfw_classifier/'),
    fallback: '',
    meaning: 'Folder with `safety_checker/` and `nsfw_classifier/`; without it nothing is checked',
  },
  FLUXD_DEVICE: {
    schema: choice(deviceChoices),
    fallback: 'auto',
    meaning:
      'What computes; `auto` is the GPU where there is one, ' +
      'and never the CPU because a library is missing',
  },
  FLUXD_BACKEND: {
    schema: choice(backendChoices),
    fallback: 'auto',
    meaning:
      'Who runs the networks: `native` is the addon of `npm run build:native`, ' +
      '`ort` needs nothing; `auto` is the addon on a GPU where it is built',
  },
  FLUXD_MEMORY_BYTES: {
    schema: optionalBytes,
    fallback: '',
    meaning:
      'What networks and their runs may fill of the GPU, by default what is free at the start ' +
      'less 4GiB; without a GPU of the machine, by default half',
  },
  FLUXD_VAE: {
    schema: choice(vaeChoices),
    fallback: 'float32',
    meaning:
      'What pictures are decoded in; `float16` halves memory and traffic on a GPU, ' +
      'and gives way to `float32` when a picture leaves its range',
  },
  FLUXD_CUDA_GRAPHS: {
    schema: integer(0, 64),
    fallback: '0',
    meaning:
      'For how many sizes of pictures, those that come first, ' +
      '`native` replays a step as a CUDA graph; each takes memory',
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

export type Settings = typeof settings
export type SettingName = keyof Settings

/** A row for each variable, for the documentation's table. */
export const configTable = () =>
  Object.entries(settings).map(([name, { fallback, meaning }]) => ({ name, fallback, meaning }))
