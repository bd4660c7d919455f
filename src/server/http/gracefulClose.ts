import type { FastifyInstance, FastifyRequest } from 'fastify'

const pollMs = 50

/**
 * Lets a server that closes end with its last reply. Node itself goes on to wait, for a minute and
 * more, for connections that were idle a moment too late or that a client opened ahead. Call it
 * before other hooks are added.
 */
export function releaseConnections(app: FastifyInstance): void {
  const replying = new Set<FastifyRequest>()
  app.addHook('onRequest', async (request) => {
    replying.add(request)
  })
  app.addHook('onResponse', async (request) => {
    replying.delete(request)
  })
  app.addHook('preClose', async () => {
    if (!app.server.listening) return
    const timer = setInterval(() => {
      if (replying.size === 0) app.server.closeAllConnections()
    }, pollMs)
    app.server.once('close', () => clearInterval(timer))
  })
}
