import type { FastifyInstance } from 'fastify'

/**
 * Logs each reply: the route and not the path, which may hold the name of a file that only its owner
 * knows.
 */
export function logReplies(app: FastifyInstance): void {
  app.addHook('onResponse', async (request, reply) => {
    const { method, caller, routeOptions } = request
    request.log.info(
      {
        method,
        route: routeOptions.url ?? 'none',
        status: reply.statusCode,
        ms: Math.round(reply.elapsedTime),
        key: caller?.keyId,
      },
      'request',
    )
  })
}
