/**
 * LoRAs of CivitAI pages. A page's address holds the id of a model, a download needs the id of one
 * of its versions, which the API lists. (weights.py uses the model's id for both and gets a wrong
 * file or none for most pages.) API: https://developer.civitai.com, GET /api/v1/models/:id
 */
import { z } from 'zod'
import { FluxdError, invalidLora } from '../errors.js'
import { bearerFor, type Host, type RemoteFile } from '../net/download/remoteFile.js'
import { discard, type GuardedClient } from '../net/guardedClient.js'
import { readBody } from '../net/replyBody.js'
import { explainStatus } from './downloadErrors.js'

const File = z.object({
  type: z.string().nullish(),
  primary: z.boolean().nullish(),
  metadata: z.object({ format: z.string().nullish() }).nullish(),
  downloadUrl: z.string(),
  hashes: z.object({ SHA256: z.string().nullish() }).nullish(),
})
const Version = z.object({ baseModel: z.string().nullish(), files: z.array(File).nullish() })
/** Newest first. */
const Model = z.object({ modelVersions: z.array(Version) })

const maxReplyBytes = 2 ** 24

/**
 * The weights of the page's newest version for Flux.1 or, if there is none, of its newest version.
 * Throws one sentence.
 */
export async function locateOnCivitai(
  id: string,
  civitai: Host,
  client: GuardedClient,
  signal: AbortSignal,
): Promise<RemoteFile> {
  const page = `${civitai.url}/api/v1/models/${id}`
  const reply = await client.get(page, { bearer: bearerFor(page, civitai), signal })
  if (reply.statusCode !== 200) {
    discard(reply)
    throw invalidLora(explainStatus('civitai', reply.statusCode))
  }
  const model = parseModel(await readBody(reply, maxReplyBytes))
  const file = chooseFile(model)
  if (!file) throw invalidLora(`CivitAI model ${id} has no version with a .safetensors file`)
  return {
    url: file.downloadUrl,
    bearer: bearerFor(file.downloadUrl, civitai),
    sha256: file.hashes?.SHA256?.toLowerCase(),
  }
}

function parseModel(body: Buffer): z.output<typeof Model> {
  try {
    return Model.parse(JSON.parse(body.toString('utf8')))
  } catch (cause) {
    throw new FluxdError('lora_invalid', 'Expected CivitAI to describe the model in JSON', {
      cause,
    })
  }
}

function chooseFile({ modelVersions }: z.output<typeof Model>) {
  const versions = modelVersions
    .map(({ baseModel, files }) => ({ baseModel, file: chooseWeights(files ?? []) }))
    .filter(({ file }) => file !== undefined)
  const forFlux = versions.find(({ baseModel }) => baseModel?.startsWith('Flux.1'))
  return (forFlux ?? versions[0])?.file
}

function chooseWeights(files: readonly z.output<typeof File>[]) {
  const weights = files.filter(
    ({ type, metadata }) => type === 'Model' && metadata?.format === 'SafeTensor',
  )
  return weights.find(({ primary }) => primary) ?? weights[0]
}
