import type { FastifyInstance } from 'fastify'

/**
 * A function that lists the methods of the path of a URL, for the 405 of a wrong method. Call it
 * before routes are added; those of plugins inside `app` count too.
 */
export function rememberRoutes(app: FastifyInstance): (url: string) => readonly string[] {
  const routes = new Map<string, { pattern: RegExp; methods: Set<string> }>()
  app.addHook('onRoute', ({ url, method }) => {
    const route = routes.get(url) ?? { pattern: toPattern(url), methods: new Set() }
    for (const name of [method].flat()) route.methods.add(name)
    routes.set(url, route)
  })
  return (url) => {
    const path = url.split('?', 1)[0]!
    const known = [...routes.values()].filter(({ pattern }) => pattern.test(path))
    return known.flatMap(({ methods }) => [...methods]).sort()
  }
}

/** `/files/:id` or `/docs/*` as a regular expression for whole paths. */
function toPattern(url: string): RegExp {
  const escaped = url.replace(/[.+?^${}()|[\]\\]/g, '\\$&')
  return new RegExp(`^${escaped.replace(/:\w+/g, '[^/]+').replace('*', '.*')}$`)
}
