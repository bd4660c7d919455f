/** The request for a prediction that a body of either surface stands for. */
import type { FastifyRequest } from 'fastify'
import { z } from 'zod'
import type { Catalog } from '../../catalog/catalog.js'
import type { Model } from '../../catalog/model.js'
import { type ResolvedInput, resolveInput } from '../../catalog/resolveInput.js'
import { withoutNulls } from '../../contract/jsonSchema.js'
import { type WebhookEvent, webhookEvents } from '../../contract/prediction.js'
import { redactInput } from '../../net/redact.js'
import { resolveSeed } from '../../plan/seed.js'
import type { PredictionRequest } from '../../predictions/request.js'
import { assertFieldLengths } from './inputLimits.js'

type Body = {
  readonly webhook?: string | undefined
  readonly webhook_events_filter?: readonly WebhookEvent[] | undefined
}

type Created = Pick<
  PredictionRequest,
  | 'model'
  | 'version'
  | 'keyId'
  | 'priority'
  | 'input'
  | 'inputEcho'
  | 'loras'
  | 'webhook'
  | 'traceparent'
>

/**
 * `sent` is the input as it came, `body` the fields of the body besides it. Throws a ZodError whose
 * issues are placed where the input is in the body, and the 413 of an input that is too long.
 */
export function createRequest(
  model: Model,
  sent: Readonly<Record<string, unknown>>,
  body: Body,
  request: FastifyRequest,
  catalog: Pick<Catalog, 'find'>,
): Created {
  assertFieldLengths(sent)
  const { input, loras } = resolve(model, sent, catalog)
  return {
    model: `${model.owner}/${model.name}`,
    version: model.version,
    keyId: request.caller?.keyId,
    priority: request.caller?.priority,
    input: { ...input, seed: resolveSeed(input) },
    inputEcho: redactInput(sent),
    loras,
    webhook: toWebhook(body, request),
    traceparent: toText(request.headers['traceparent']),
  }
}

const toText = (header: unknown) => (typeof header === 'string' ? header : undefined)

function resolve(
  model: Model,
  sent: Readonly<Record<string, unknown>>,
  catalog: Pick<Catalog, 'find'>,
): ResolvedInput {
  try {
    return resolveInput(model, withoutNulls(sent), catalog)
  } catch (error) {
    if (!(error instanceof z.ZodError)) throw error
    const issues = error.issues.map((issue) => ({ ...issue, path: ['input', ...issue.path] }))
    throw new z.ZodError(issues)
  }
}

/** No filter, or an empty one, asks for all events. */
const toWebhook = (
  { webhook: url, webhook_events_filter: filter }: Body,
  { protocol, host }: FastifyRequest,
): PredictionRequest['webhook'] =>
  url === undefined
    ? undefined
    : {
        url,
        events: filter?.length ? filter : webhookEvents,
        serverUrl: host ? `${protocol}://${host}` : undefined,
      }
