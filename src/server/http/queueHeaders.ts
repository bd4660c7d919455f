/** Where a prediction that is not over stands, as headers: the contract's bodies have no place for it. */
import type { FastifyReply } from 'fastify'
import type { QueueEstimate } from '../../predictions/estimate.js'

export const queueHeaders = {
  /** How many come before it; 0 when it runs. */
  position: 'fluxd-queue-position',
  /** Whole seconds until it is done, where they can be foretold. */
  eta: 'fluxd-eta-seconds',
} as const

/** Sets them on the reply that tells of the prediction; nothing for one that is over. */
export function sendQueueHeaders(reply: FastifyReply, outlook: QueueEstimate | undefined): void {
  if (!outlook) return
  reply.header(queueHeaders.position, outlook.position)
  if (outlook.etaSeconds !== undefined)
    reply.header(queueHeaders.eta, Math.ceil(outlook.etaSeconds))
}
