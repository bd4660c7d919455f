/**
 * Model repositories on Hugging Face: the files that make up a checkpoint, at one commit.
 * Routes: /api/models/<repo>/revision/<name>, /api/models/<repo>/tree/<commit>,
 * /<repo>/resolve/<commit>/<path>.
 */
import { z } from 'zod'
import { FluxdError } from '../../errors.js'
import { bearerFor, type Host } from '../download/remoteFile.js'
import { discard, type GuardedClient, type Reply } from '../guardedClient.js'
import { readBody } from '../replyBody.js'

export type RepositoryFile = {
  readonly path: string
  readonly bytes: number
  readonly url: string
  /** Large files carry their sha256, small ones git's hash of a blob. */
  readonly digest: { readonly kind: 'sha256' | 'git'; readonly hex: string }
}

export type Repository = {
  /** `owner/name`. */
  readonly name: string
  /** 40 hexadecimal digits. */
  readonly commit: string
  readonly files: readonly RepositoryFile[]
}

export type RepositorySource = {
  readonly client: GuardedClient
  readonly host: Host
  readonly signal: AbortSignal
}

const hex = (digits: number) => z.string().regex(new RegExp(`^[0-9a-f]{${digits}}$`))

const Revision = z.object({ sha: hex(40) })

const Tree = z.array(
  z.object({
    type: z.string(),
    path: z.string(),
    size: z.number().int().nonnegative().default(0),
    oid: hex(40),
    lfs: z.object({ oid: hex(64) }).optional(),
  }),
)

// The list of a repository with thousands of files takes a few megabytes.
const maxReplyBytes = 2 ** 24
const maxPages = 50

const folders = [
  'transformer',
  'vae',
  'scheduler',
  'text_encoder',
  'text_encoder_2',
  'tokenizer',
  'tokenizer_2',
]

// Not the duplicates: the single-file checkpoint, and other formats and precisions in the folders.
const extensions = String.raw`\.safetensors(\.index\.json)?|\.json|\.txt|\.model`
const checkpointFile = new RegExp(
  String.raw`^(model_index\.json|LICENSE(\.\w+)?|(${folders.join('|')})/[\w-]+(${extensions}))$`,
)

/**
 * The files of the checkpoint in the repository `name` at `revision`, a branch, tag or commit.
 * Throws one sentence when there is no checkpoint, or no access to it.
 */
export async function readRepository(
  name: string,
  revision: string,
  source: RepositorySource,
): Promise<Repository> {
  const api = `${source.host.url}/api/models/${name}`
  const { body } = await getJson(`${api}/revision/${encodeURIComponent(revision)}`, name, source)
  const { sha: commit } = read(Revision, body, name)
  const files: RepositoryFile[] = []
  for await (const entry of listTree(`${api}/tree/${commit}?recursive=true`, name, source))
    if (entry.type === 'file' && checkpointFile.test(entry.path))
      files.push(toFile(entry, `${source.host.url}/${name}/resolve/${commit}/${entry.path}`))
  const missing = folders.filter(
    (folder) => !files.some(({ path }) => path.startsWith(`${folder}/`)),
  )
  if (missing.length === 0) return { name, commit, files }
  throw new FluxdError(
    'not_found',
    `Expected a diffusers checkpoint of Flux.1 in ${name} but ${missing.join(', ')} ` +
      `${missing.length === 1 ? 'is' : 'are'} missing`,
  )
}

/** Requests `file` and throws if the server denies access, with what to do about it. */
export async function checkAccess(
  { name }: Repository,
  file: RepositoryFile,
  source: RepositorySource,
): Promise<void> {
  const reply = await get(file.url, source)
  refuseDenied(reply, name, source.host)
  discard(reply)
}

/** The sentence for a repository that this user may not read. */
export function explainDenial(name: string, { url, token }: Host): string {
  const page = `${url}/${name}`
  return token
    ? `Access to ${name} is restricted: accept its licence at ${page} with the account of ` +
        'FLUXD_HF_TOKEN, and let that token read gated repositories'
    : `Access to ${name} is restricted: accept its licence at ${page}, make a token at ` +
        `${url}/settings/tokens and set FLUXD_HF_TOKEN to it`
}

const toFile = (
  { path, size, oid, lfs }: z.output<typeof Tree>[number],
  url: string,
): RepositoryFile => ({
  path,
  bytes: size,
  url,
  digest: lfs ? { kind: 'sha256', hex: lfs.oid } : { kind: 'git', hex: oid },
})

/** The entries of all pages of a list; each page names the next one in its Link header. */
async function* listTree(start: string, name: string, source: RepositorySource) {
  let next: string | undefined = start
  for (let page = 0; next !== undefined && page < maxPages; page++) {
    const reply: Json = await getJson(next, name, source)
    yield* read(Tree, reply.body, name)
    next = nextPage(reply.link, start)
  }
}

function nextPage(link: string, start: string): string | undefined {
  const [, url] = /<([^>]+)>\s*;\s*rel="?next"?/.exec(link) ?? []
  const isOwn =
    url !== undefined && URL.canParse(url) && new URL(url).origin === new URL(start).origin
  return isOwn ? url : undefined
}

type Json = { readonly body: unknown; readonly link: string }

async function getJson(url: string, name: string, source: RepositorySource): Promise<Json> {
  const reply = await get(url, source)
  refuseDenied(reply, name, source.host)
  const text = (await readBody(reply, maxReplyBytes)).toString('utf8')
  try {
    return { body: JSON.parse(text), link: String(reply.headers['link'] ?? '') }
  } catch (cause) {
    throw invalidReply(name, 'JSON', cause)
  }
}

const get = (url: string, { client, host, signal }: RepositorySource) =>
  client.get(url, { bearer: bearerFor(url, host), signal }).catch((error: unknown) => {
    if (error instanceof FluxdError || signal.aborted) throw error
    const reason = error instanceof Error ? error.message : String(error)
    throw new Error(`Expected an answer from ${host.url} but received none: ${reason}`)
  })

function refuseDenied(reply: Reply, name: string, host: Host): void {
  const { statusCode: status, headers } = reply
  if (status === 200) return
  discard(reply)
  // Without a token the hub answers 401 for repositories that do not exist, too.
  if (status === 404 || (status === 401 && headers['x-error-code'] !== 'GatedRepo'))
    throw new FluxdError(
      'not_found',
      `There is no ${name} at ${host.url} with that revision, ` +
        'or it is private: then set FLUXD_HF_TOKEN',
    )
  if (status === 401 || status === 403) throw new FluxdError('forbidden', explainDenial(name, host))
  throw new Error(`${host.url} answered with status ${status} when asked for ${name}`)
}

function read<T>(schema: z.ZodType<T>, body: unknown, name: string): T {
  const parsed = schema.safeParse(body)
  if (parsed.success) return parsed.data
  throw invalidReply(name, 'a list of files', parsed.error)
}

const invalidReply = (name: string, expected: string, cause: unknown) =>
  new Error(`Expected ${expected} from the hub about ${name} but received something else`, {
    cause,
  })
