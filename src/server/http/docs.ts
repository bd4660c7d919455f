/** `/docs`: pages to read and to try, written from the routes themselves. */
import swagger, { type FastifyDynamicSwaggerOptions } from '@fastify/swagger'
import swaggerUi from '@fastify/swagger-ui'
import type { FastifyInstance, FastifySchema } from 'fastify'
import { z } from 'zod'
import { dialect, plain } from '../../contract/jsonSchema.js'
import { type RouteText, routeTexts } from './routeDocs.js'

/** Describes the routes that are registered later, those with a text; `GET /docs` shows them. */
export async function addDocs(app: FastifyInstance, version: string): Promise<void> {
  await app.register(swagger, describeRoutes(version))
  app.register(async (pages) => {
    pages.addHook('onRoute', (route) => {
      route.config = { ...route.config, access: 'public' }
    })
    await pages.register(swaggerUi, {
      routePrefix: '/docs',
      theme: { title: 'fluxd' },
      staticCSP: pageContent,
      // Else it asks somebody else's server whether the document is valid.
      uiConfig: { validatorUrl: null },
    })
  })
}

/** What the pages are made of, all of it from here; no other reply is a page. */
const pageContent = {
  'default-src': "'none'",
  'script-src': "'self'",
  'style-src': "'self' 'unsafe-inline'",
  'img-src': "'self' data:",
  'connect-src': "'self'",
  'frame-ancestors': "'none'",
}

const describeRoutes = (version: string): FastifyDynamicSwaggerOptions => ({
  openapi: {
    openapi: '3.0.3',
    info: { title: 'fluxd', version },
    tags: Object.keys(routeTexts).map((name) => ({ name })),
    components: { securitySchemes: { key: { type: 'http', scheme: 'bearer' } } },
  },
  transform: ({ schema, url, route }) => ({ schema: describeRoute(schema, url, route), url }),
})

type DescribedRoute = {
  readonly method: string | string[]
  readonly config?: { readonly access?: string }
}

function describeRoute(
  schema: FastifySchema | undefined,
  url: string,
  route: DescribedRoute,
): FastifySchema {
  const [tag, text] = findText(`${[route.method].flat()[0]} ${url}`)
  if (!text) return { hide: true }
  const { params, querystring, body } = schema ?? {}
  return {
    ...{ tags: [tag], summary: text.summary },
    ...(params !== undefined && { params: toJsonSchema(params) }),
    ...(querystring !== undefined && { querystring: toJsonSchema(querystring) }),
    ...(body !== undefined && { body: toJsonSchema(body) }),
    ...(text.reply && { response: { 200: toJsonSchema(text.reply) } }),
    ...(route.config?.access !== 'public' && { security: [{ key: [] }] }),
  }
}

function findText(route: string): readonly [tag: string, text: RouteText | undefined] {
  const found = Object.entries(routeTexts).find(([, texts]) => route in texts)
  return found ? [found[0], found[1][route]] : ['', undefined]
}

const toJsonSchema = (schema: unknown) => plain(z.toJSONSchema(schema as z.ZodType, dialect))
