import type { FastifyInstance } from 'fastify'

/**
 * Logs each reply: the route, not the path, which may hold the secret id of a file.
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
