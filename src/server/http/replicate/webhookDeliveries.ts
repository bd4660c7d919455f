/** The deliveries of a prediction's webhook, and sending it once more: fluxd's own routes. */
import type { FastifyInstance } from 'fastify'
import { z } from 'zod'
import type { Prediction } from '../../../contract/prediction.js'
import { type WebhookDelivery, wholePage } from '../../../contract/replicate.js'
import { isTerminal } from '../../../predictions/prediction.js'
import type { Delivery } from '../../../store/deliveryStore.js'
import type { ZodTypeProvider } from '../zod.js'
import type { ReplicateServices } from './context.js'
import { notFound, problem } from './errors.js'
import { IdPath } from './lookup.js'
import { pageOf } from './pagination.js'

const path = '/predictions/:id/deliveries'

const schemas = {
  list: {
    summary: 'What became of its webhooks',
    replies: { 200: pageOf(z.unknown()) },
    params: IdPath,
  },
  redeliver: {
    summary: 'Send its last webhook once more',
    replies: { 201: pageOf(z.unknown()) },
    params: IdPath,
  },
} as const

export function deliveryRoutes(
  server: FastifyInstance,
  { predictions, webhooks }: Pick<ReplicateServices, 'predictions' | 'webhooks'>,
): void {
  const app = server.withTypeProvider<ZodTypeProvider>()
  const list = async (id: string) => wholePage((await webhooks.listDeliveries(id)).map(toWire))

  app.get(path, { schema: schemas.list }, async ({ params: { id } }) => {
    if (!(await predictions.get(id))) throw notFound()
    return list(id)
  })

  app.post(path, { schema: schemas.redeliver }, async ({ params: { id } }, reply) => {
    const prediction = await predictions.get(id)
    if (!prediction) throw notFound()
    expectReceiver(prediction)
    await webhooks.redeliver(prediction)
    reply.code(201)
    return list(id)
  })
}

function expectReceiver(prediction: Prediction): void {
  if (!prediction.webhook)
    throw problem(422, 'No webhook', 'Expected a prediction that was created with a webhook')
  if (!isTerminal(prediction))
    throw problem(
      422,
      'Not finished',
      `Expected a prediction that is over but it is ${prediction.status}`,
    )
}

const toWire = (delivery: Delivery): WebhookDelivery => ({
  id: delivery.id,
  event: delivery.event,
  status: statusOf(delivery),
  attempts: delivery.attempts,
  created_at: delivery.createdAt.toISOString(),
  next_attempt_at: delivery.dueAt?.toISOString() ?? null,
  completed_at: delivery.settledAt?.toISOString() ?? null,
  error: delivery.error ?? null,
})

function statusOf({ settledAt, error }: Delivery): WebhookDelivery['status'] {
  if (!settledAt) return 'pending'
  return error === undefined ? 'delivered' : 'failed'
}
