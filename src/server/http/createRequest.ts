/** What a request that makes a prediction asks for, whichever surface it came to. */
import type { FastifyRequest } from 'fastify'
import { z } from 'zod'
import type { Catalog } from '../../catalog/catalog.js'
import type { Model } from '../../catalog/model.js'
import { type AppliedModel, applyModel } from '../../catalog/resolveInput.js'
import { type WebhookEvent, webhookEvents } from '../../contract/prediction.js'
import { withoutNulls } from '../../contract/records.js'
import { withoutSecrets } from '../../contract/redaction.js'
import type { NewPrediction } from '../../predictions/request.js'

type Body = {
  readonly webhook?: string | undefined
  readonly webhook_events_filter?: readonly WebhookEvent[] | undefined
}

type Wish = Pick<
  NewPrediction,
  'model' | 'version' | 'keyId' | 'priority' | 'sent' | 'wish' | 'loras' | 'webhook' | 'traceparent'
>

/**
 * `sent` is the input as it came, `body` what stood beside it. Throws a ZodError whose issues are placed
 * where the input is in the body.
 */
export const readWish = (
  model: Model,
  sent: Readonly<Record<string, unknown>>,
  body: Body,
  request: FastifyRequest,
  catalog: Pick<Catalog, 'find'>,
): Wish => ({
  model: `${model.owner}/${model.name}`,
  version: model.version,
  keyId: request.caller?.keyId,
  priority: request.caller?.priority,
  sent: withoutSecrets(sent),
  ...applyTo(model, sent, catalog),
  webhook: toWebhook(body, request),
  traceparent: toText(request.headers['traceparent']),
})

const toText = (header: unknown) => (typeof header === 'string' ? header : undefined)

function applyTo(
  model: Model,
  sent: Readonly<Record<string, unknown>>,
  catalog: Pick<Catalog, 'find'>,
): AppliedModel {
  try {
    return applyModel(model, withoutNulls(sent), catalog)
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
): NewPrediction['webhook'] =>
  url === undefined
    ? undefined
    : {
        ...{ url, events: filter?.length ? filter : webhookEvents },
        serverUrl: host ? `${protocol}://${host}` : undefined,
      }
