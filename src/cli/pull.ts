/**
 * `fluxd pull`: downloads a Flux.1 checkpoint from Hugging Face into a folder, ready to be served.
 */
import { existsSync } from 'node:fs'
import { rename, rm } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import type { Config } from '../config/config.js'
import { makePrivate } from '../config/privateFolder.js'
import { openCheckpoint } from '../engine/checkpoint/checkpoint.js'
import { FluxdError, invalidInput } from '../errors.js'
import type { RetryPolicy } from '../net/download/resumable.js'
import { createGuardedClient } from '../net/guardedClient.js'
import { pullRepository, pullRetryPolicy } from '../net/huggingFace/pull.js'
import { type Repository, readRepository } from '../net/huggingFace/repository.js'
import { takeLock } from '../store/sqlite/dataDirLock.js'
import { type PullView, showBytes, showPull } from './progressBars.js'

export type PullFlags = { readonly to?: string }

export type PullContext = {
  readonly config: Pick<Config, 'dataDir' | 'hosts'> & Partial<Pick<Config, 'proxy'>>
  readonly signal: AbortSignal
  readonly stdout: NodeJS.WritableStream
  readonly stderr: NodeJS.WriteStream
  readonly retry?: RetryPolicy
}

const lockName = '.lock'

const aliases: Readonly<Record<string, string>> = {
  dev: 'black-forest-labs/FLUX.1-dev',
  schnell: 'black-forest-labs/FLUX.1-schnell',
}

/**
 * Downloads the checkpoint that `text` names, checks it and prints the setting that serves it. An
 * incomplete one lies in a folder with another name, where the next pull continues.
 * Throws one sentence; `canceled` when the signal aborted.
 */
export async function pullModel(text: string, flags: PullFlags, context: PullContext) {
  const { name, revision } = readReference(text)
  const { dataDir } = context.config
  const folder = resolve(flags.to ?? join(dataDir, 'models', name.replace('/', '--')))
  if (flags.to === undefined) makePrivate(dataDir)
  if (existsSync(folder))
    context.stdout.write(`${folder} is there already; remove it to pull ${name} again\n`)
  else await orCanceled(context.signal, () => pullInto(folder, name, revision, context))
  const isDefault = flags.to === undefined && Object.values(aliases).includes(name)
  context.stdout.write(describe(folder, isDefault))
}

function readReference(text: string) {
  const [, place = '', revision = 'main'] = /^([^@]+)(?:@([\w./-]+))?$/.exec(text) ?? []
  const name = aliases[place] ?? place.replace(/^https:\/\/huggingface\.co\//, '')
  if (/^[A-Za-z0-9][\w.-]*\/[A-Za-z0-9][\w.-]*$/.test(name)) return { name, revision }
  throw invalidInput(
    `Expected dev, schnell or OWNER/NAME, with or without @REVISION, but received ${text}`,
  )
}

async function pullInto(folder: string, name: string, revision: string, context: PullContext) {
  const { config, signal, retry = pullRetryPolicy } = context
  // FLUXD_HF_URL is the operator's own setting and may be a mirror in a private network.
  const client = createGuardedClient({
    allowAddress: () => true,
    stallTimeoutMs: retry.stallMs,
    proxy: config.proxy,
  })
  const source = { client, host: config.hosts.huggingFace, signal }
  const partial = `${folder}.partial`
  try {
    const repository = await readRepository(name, revision, source)
    await withLock(partial, async () => {
      await withView(repository, context, (view) =>
        pullRepository(repository, partial, source, view, retry),
      )
      openCheckpoint(partial)
      await rename(partial, folder)
      await rm(join(folder, lockName))
    })
  } finally {
    await client.close()
  }
}

/**
 * Runs `work` as the only pull into the folder, which is made; two would corrupt each other's
 * files.
 */
async function withLock(partial: string, work: () => Promise<void>) {
  const unlock = lock(partial)
  try {
    await work()
  } finally {
    unlock()
  }
}

function lock(partial: string): () => void {
  try {
    return takeLock(join(partial, lockName))
  } catch (cause) {
    if (!(cause instanceof FluxdError)) throw cause
    const message = `Expected to be the only pull into ${partial} but there is another one`
    throw new FluxdError('busy', message, { cause })
  }
}

async function withView(
  { name, commit, files }: Repository,
  { stderr }: PullContext,
  work: (view: PullView) => Promise<void>,
) {
  const size = showBytes(files.reduce((sum, { bytes }) => sum + bytes, 0))
  stderr.write(`${name} at ${commit.slice(0, 12)}: ${files.length} files, ${size}\n`)
  const view = showPull(files, stderr)
  try {
    await work(view)
  } finally {
    view.stop()
  }
}

async function orCanceled(signal: AbortSignal, work: () => Promise<void>) {
  try {
    await work()
  } catch (cause) {
    if (!signal.aborted) throw cause
    const message = 'The pull was canceled; the same command goes on with it'
    throw new FluxdError('canceled', message, { cause })
  }
}

/** How a pulled checkpoint is served: by default, or by a setting. */
function describe(folder: string, isDefault: boolean): string {
  const { guidance } = openCheckpoint(folder).transformer.params
  const [model, variable] = guidance
    ? ['dev', 'FLUXD_CHECKPOINT_DEV']
    : ['schnell', 'FLUXD_CHECKPOINT_SCHNELL']
  const use = isDefault
    ? `fluxd serves it as model ${model} from its next start, unless ${variable} names another:`
    : `to serve it as model ${model}, set`
  return `${use}\n${variable}=${folder}\n`
}
