import type { FastifyInstance } from 'fastify'
import type { Catalog } from '../../catalog/catalog.js'

const pollMs = 1000

/** What `fluxd models` adds or removes counts a second later at most. */
export function rereadCatalog(app: FastifyInstance, catalog: Pick<Catalog, 'refresh'>): void {
  let looking = Promise.resolve()
  let lookAtMs = 0
  app.addHook('onRequest', async (request) => {
    const now = performance.now()
    if (now >= lookAtMs) {
      lookAtMs = now + pollMs
      looking = catalog
        .refresh()
        .catch((error: unknown) => request.log.error({ err: error }, 'the catalog is as it was'))
    }
    // Everybody waits, so that nobody overtakes who looks.
    await looking
  })
}
