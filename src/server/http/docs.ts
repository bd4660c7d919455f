/**
 * `/docs`: pages to read and to try, written from the routes. Each route holds its own `summary`
 * and `replies`; the refusals that it may answer with follow from its surface, its access and its
 * inputs.
 */
import swagger, { type FastifyDynamicSwaggerOptions } from '@fastify/swagger'
import swaggerUi from '@fastify/swagger-ui'
import type { FastifyInstance, FastifySchema } from 'fastify'
import { z } from 'zod'
import { dialect, plain } from '../../contract/jsonSchema.js'
import { Problem, problemMimeType } from '../../contract/problem.js'
import { HttpValidationError } from '../../contract/validation.js'

/** A schema is JSON, a text the media type of any other body, null no body. */
type Replies = Readonly<Record<number, z.ZodType | string | null>>

declare module 'fastify' {
  interface FastifySchema {
    readonly replies?: Replies
    /** The fields of a form that the route reads itself. */
    readonly form?: z.ZodType
  }
}

export type DocsOptions = { readonly version: string; readonly publicUrl: string | undefined }

/** Describes the routes that are registered later, those with a summary; `GET /docs` shows them. */
export async function addDocs(app: FastifyInstance, options: DocsOptions): Promise<void> {
  await app.register(swagger, describeRoutes(options))
  app.register(async (pages) => {
    pages.addHook('onRoute', (route) => {
      route.config = { ...route.config, access: 'public' }
    })
    await pages.register(swaggerUi, {
      routePrefix: '/docs',
      theme: { title: 'fluxd' },
      staticCSP: pageContent,
      // The page would ask a server of others whether the document is valid.
      uiConfig: { validatorUrl: null },
    })
  })
}

/** The pages consist of what this server sends; no other reply is a page. */
const pageContent = {
  'default-src': "'none'",
  'script-src': "'self'",
  'style-src': "'self' 'unsafe-inline'",
  'img-src': "'self' data:",
  'connect-src': "'self'",
  'frame-ancestors': "'none'",
}

const describeRoutes = ({ version, publicUrl }: DocsOptions): FastifyDynamicSwaggerOptions => ({
  openapi: {
    openapi: '3.0.3',
    info: {
      title: 'fluxd',
      version,
      description: 'Generates images with Flux.1, for the clients of Replicate and of Cog.',
      license: { name: 'Apache-2.0', url: 'https://www.apache.org/licenses/LICENSE-2.0' },
      contact: { name: 'fluxd' },
    },
    servers: [{ url: publicUrl ?? '/' }],
    tags: Object.entries(tags).map(([name, { description }]) => ({ name, description })),
    components: { securitySchemes: { key: { type: 'http', scheme: 'bearer' } } },
  },
  transform: ({ schema, url, route }) => ({ schema: describeRoute(schema, url, route), url }),
})

/** The headings, and the paths below each; the first that matches counts. */
const tags = {
  Predictions: {
    description: 'Replicate’s predictions',
    paths: /^\/v1\/(predictions|files\/stream)/,
  },
  Models: { description: 'Named models and their versions', paths: /^\/v1\/(models|search)/ },
  Deployments: { description: 'Names for one version of a model', paths: /^\/v1\/deployments/ },
  Files: { description: 'Uploads and images', paths: /^(\/v1)?\/files/ },
  Server: { description: 'The server itself', paths: /^\/(v1|livez|readyz|metrics)/ },
  Cog: { description: 'The surface of a Cog container', paths: /^\// },
} as const

const tagOf = (url: string) => Object.entries(tags).find(([, { paths }]) => paths.test(url))?.[0]

type DescribedRoute = {
  readonly method: string | string[]
  readonly config?: { readonly access?: string; readonly creates?: boolean }
}

function describeRoute(
  schema: FastifySchema | undefined,
  url: string,
  { method, config = {} }: DescribedRoute,
): FastifySchema {
  if (schema?.summary === undefined) return { hide: true }
  const { summary, params, querystring, form, replies = {} } = schema
  const body = schema.body ?? form
  const description: FastifySchema = {
    tags: [tagOf(url) ?? 'Server'],
    summary,
    description: summary,
    operationId: nameOf([method].flat()[0] ?? 'GET', url),
    security: config.access === 'public' ? [] : [{ key: [] }],
    response: { ...describeRefusals(schema, url, config), ...describeReplies(replies) },
  }
  if (params !== undefined) description.params = toJsonSchema(params)
  if (querystring !== undefined) description.querystring = toJsonSchema(querystring)
  if (body !== undefined) description.body = toJsonSchema(body)
  if (form !== undefined) description.consumes = ['multipart/form-data']
  return description
}

/** `getV1ModelsOwnerName` */
const nameOf = (method: string, url: string) =>
  [method.toLowerCase(), ...url.split(/\W+/).filter(Boolean).map(capitalize)].join('')

const capitalize = (word: string) => word.charAt(0).toUpperCase() + word.slice(1)

const describeReplies = (replies: Replies) =>
  Object.fromEntries(
    Object.entries(replies).map(([status, reply]) => [
      status,
      describeReply(descriptions[Number(status)] ?? 'Success', reply),
    ]),
  )

function describeReply(description: string, reply: Replies[number]) {
  // The plugin takes the type null for a reply without a body.
  if (reply === null || reply === undefined) return { description, type: 'null' }
  const [type, schema] =
    typeof reply === 'string'
      ? [reply, { type: 'string', format: reply.startsWith('text/') ? undefined : 'binary' }]
      : ['application/json', toJsonSchema(reply)]
  return { description, content: { [type]: { schema } } }
}

/** The refusals that a client may meet, in the form of the surface. */
function describeRefusals(
  { params, querystring, body, form }: FastifySchema,
  url: string,
  { access, creates = false }: NonNullable<DescribedRoute['config']>,
) {
  const hasBody = body !== undefined || form !== undefined
  const hasInput = hasBody || params !== undefined || querystring !== undefined
  const isCog = !/^\/(v1|files)\//.test(url)
  const statuses = [
    ...(access === 'public' ? [] : [401, 403, 429]),
    ...(params === undefined ? [] : [404]),
    ...(hasBody ? [400, 413, 415] : []),
    ...(hasInput ? [422] : []),
    ...(creates ? [503, 507] : []),
    ...(creates && isCog ? [409] : []),
  ]
  const [type, schema] = isCog
    ? ['application/json', cogProblem]
    : [problemMimeType, toJsonSchema(Problem)]
  const refusal = (description: string) => ({ description, content: { [type]: { schema } } })
  return {
    ...Object.fromEntries(
      statuses.map((status) => [status, refusal(descriptions[status] ?? 'Refused')]),
    ),
    default: refusal('Any other error'),
  }
}

const descriptions: Readonly<Record<number, string>> = {
  200: 'OK',
  201: 'Created',
  202: 'Accepted: not finished yet',
  204: 'Done',
  206: 'The range that was asked for',
  304: 'The client has it',
  400: 'The body cannot be read',
  401: 'No valid key',
  403: 'The key lacks the scope, or a page of another site sent it',
  404: 'Unknown',
  409: 'Another prediction runs, or has this id',
  413: 'The body is too large',
  415: 'The body is of another type',
  416: 'The range is beyond the file',
  422: 'Fields are wrong',
  429: 'The queue is full, or the rate of the key is used up',
  503: 'Not ready',
  507: 'The disk is full',
}

const toJsonSchema = (schema: unknown) => plain(z.toJSONSchema(schema as z.ZodType, dialect))

const cogProblem = toJsonSchema(
  z.object({ detail: z.union([z.string(), HttpValidationError.shape.detail]) }),
)
