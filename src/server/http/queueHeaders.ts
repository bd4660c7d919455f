/**
 * The queue position of an active prediction as headers: the contract's bodies have no field for
 * it.
 */
import type { FastifyReply } from 'fastify'
import type { QueueEstimate } from '../../predictions/estimate.js'

export const queueHeaders = {
  /** Predictions that come before it; 0 when it runs. */
  position: 'fluxd-queue-position',
  /** Whole seconds until it ends, where they can be estimated. */
  eta: 'fluxd-eta-seconds',
} as const

/** Sets the headers on a reply about the prediction; none for one that has ended. */
export function sendQueueHeaders(reply: FastifyReply, estimate: QueueEstimate | undefined): void {
  if (!estimate) return
  reply.header(queueHeaders.position, estimate.position)
  if (estimate.etaSeconds !== undefined)
    reply.header(queueHeaders.eta, Math.ceil(estimate.etaSeconds))
}
