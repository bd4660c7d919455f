import type { FastifyInstance } from 'fastify'
import type { Catalog } from '../../catalog/catalog.js'

const pollMs = 1000

/**
 * Reads the catalog again before a request, at most once a second, so that what `fluxd models` adds
 * or removes is served. A catalog that cannot be read leaves the previous one.
 */
export function rereadCatalog(app: FastifyInstance, catalog: Pick<Catalog, 'refresh'>): void {
  let reload = Promise.resolve()
  let nextReloadMs = 0
  app.addHook('onRequest', async (request) => {
    const now = performance.now()
    if (now >= nextReloadMs) {
      nextReloadMs = now + pollMs
      reload = catalog
        .refresh()
        .catch((error: unknown) =>
          request.log.error({ err: error }, 'catalog reload failed; keeping the previous one'),
        )
    }
    // Requests that come meanwhile wait for the same reload and see its catalog.
    await reload
  })
}
