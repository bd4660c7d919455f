/** What an orchestrator asks: is the process alive, and may it be sent predictions. */
import type { FastifyInstance } from 'fastify'

/** `listReasons` says why the server takes no predictions now; none means that it does. */
export function probeRoutes(app: FastifyInstance, listReasons: () => readonly string[]): void {
  const config = { access: 'public' } as const

  app.get('/livez', { config }, () => ({ status: 'alive' }))

  app.get('/readyz', { config }, (_request, reply) => {
    const reasons = listReasons()
    return reply
      .code(reasons.length === 0 ? 200 : 503)
      .send(reasons.length === 0 ? { status: 'ready' } : { status: 'not ready', reasons })
  })
}
