/** LoRA files in Hugging Face repositories: the file that a reference means, and its URL. */
import { fileDownloadInfo, listFiles } from '@huggingface/hub'
import { invalidLora } from '../errors.js'
import { bearerFor, type Host, type RemoteFile } from '../net/download/remoteFile.js'
import { discard, type GuardedClient, type Reply } from '../net/guardedClient.js'
import { readBody } from '../net/replyBody.js'
import type { LoraSource } from './reference.js'

type HubSource = Extract<LoraSource, { readonly kind: 'huggingface' }>

// The list of a repository with thousands of files takes a few megabytes.
const maxReplyBytes = 2 ** 24

/**
 * The file that `source` names or, when it names none, the repository's only .safetensors.
 * Throws one sentence, to be put after "Failed to download from HuggingFace: ".
 */
export async function locateOnHub(
  { owner, repo, file }: HubSource,
  hub: Host,
  client: GuardedClient,
  signal: AbortSignal,
): Promise<RemoteFile & { readonly file: string }> {
  const name = `${owner}/${repo}`
  const fetch = hubFetch(client, name, hub, signal)
  const options = { repo: { type: 'model', name }, hubUrl: hub.url, fetch } as const

  const chosen = file ?? chooseFile(name, await listWeights(options))
  const info = await fileDownloadInfo({ ...options, path: encodePath(chosen) })
  if (!info) throw invalidLora(`There is no ${chosen} in ${name}`)
  return {
    file: chosen,
    url: info.url,
    bearer: bearerFor(info.url, hub),
    // The ETag of a large file is its sha256, that of a small one git's hash.
    sha256: /^"?([0-9a-f]{64})"?$/.exec(info.etag)?.[1],
  }
}

async function listWeights(options: Parameters<typeof listFiles>[0]): Promise<string[]> {
  const found: string[] = []
  for await (const { type, path } of listFiles({ ...options, recursive: true }))
    if (type === 'file' && path.includes('.safetensors')) found.push(path)
  return found
}

/** The only file of `found`. The message is the reference's, also for no file at all. */
function chooseFile(name: string, found: readonly string[]): string {
  const [only, ...others] = found
  if (only !== undefined && others.length === 0) return only
  const list = found.map((path) => `'${path}'`).join(', ')
  throw invalidLora(
    `No *.safetensors file was explicitly specified from the HuggingFace repo ${name} and more ` +
      `than one *.safetensors file was found. Found: [${list}]`,
  )
}

const encodePath = (path: string) => path.split('/').map(encodeURIComponent).join('/')

/** A `fetch` for the hub's client: guarded, and with the token for the hub itself only. */
const hubFetch =
  (client: GuardedClient, repo: string, hub: Host, signal: AbortSignal): typeof globalThis.fetch =>
  async (input, init) => {
    const address = input instanceof Request ? input.url : String(input)
    const headers = Object.fromEntries(new Headers(init?.headers))
    const reply = await client.get(address, { headers, bearer: bearerFor(address, hub), signal })
    refuseDenied(reply, repo)
    return toResponse(reply)
  }

function refuseDenied(reply: Reply, repo: string): void {
  const { statusCode, headers } = reply
  if (statusCode !== 401 && statusCode !== 403) return
  discard(reply)
  const page = `https://huggingface.co/${repo}`
  // Without a token the hub answers 401 for repositories that do not exist, too.
  if (statusCode === 401 && headers['x-error-code'] !== 'GatedRepo')
    throw invalidLora(
      `${repo} does not exist, or is private or gated: see ${page}, ` +
        'and set FLUXD_HF_TOKEN if it needs a token',
    )
  throw invalidLora(
    `Access to ${repo} is restricted: accept its licence at ${page} ` +
      'and set FLUXD_HF_TOKEN to a token of that account',
  )
}

async function toResponse(reply: Reply): Promise<Response> {
  const { statusCode, headers } = reply
  // The body that is passed on has been decoded.
  const { 'content-encoding': _, ...described } = headers
  const fields = Object.entries(described).flatMap(([field, value]) =>
    value === undefined ? [] : [value].flat().map((each): [string, string] => [field, each]),
  )
  return new Response(await readReply(reply), { status: statusCode, headers: fields })
}

/**
 * The body of a JSON reply; a file that is sent although only its size was asked for is not read.
 */
async function readReply(reply: Reply): Promise<Uint8Array<ArrayBuffer> | null> {
  const isJson = /json/.test(String(reply.headers['content-type'] ?? ''))
  if (isJson && reply.statusCode !== 204)
    return new Uint8Array(await readBody(reply, maxReplyBytes))
  discard(reply)
  return null
}
