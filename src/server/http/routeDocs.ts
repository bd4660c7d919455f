/** What the documentation says of each route: what it is for, and what it answers with. */
import { z } from 'zod'
import { PredictionResponse } from '../../contract/cog.js'
import { Deployment } from '../../contract/deployment.js'
import { File } from '../../contract/file.js'
import { HealthCheck } from '../../contract/health.js'
import { Model, ModelVersion } from '../../contract/model.js'
import { Account, Hardware, ReplicatePrediction, WebhookSecret } from '../../contract/replicate.js'

export type RouteText = {
  readonly summary: string
  /** Left out where it is no JSON, or any. */
  readonly reply?: z.ZodType
}

const pageOf = (item: z.ZodType) =>
  z.object({ next: z.string().nullable(), previous: z.string().nullable(), results: z.array(item) })

const Collection = z.object({
  ...{ name: z.string(), slug: z.string(), description: z.string() },
  full_description: z.string().nullable(),
})

const cog: Readonly<Record<string, RouteText>> = {
  'GET /': { summary: 'Where everything of this surface is' },
  'GET /openapi.json': { summary: 'This surface as Cog’s clients expect it to be described' },
  'POST /predictions': { summary: 'Make pictures', reply: PredictionResponse },
  'PUT /predictions/:id': {
    summary: 'Make pictures under an id of your own, once',
    reply: PredictionResponse,
  },
  'POST /predictions/:id/cancel': { summary: 'Cancel a prediction' },
  'GET /health-check': { summary: 'Whether the model is loaded', reply: HealthCheck },
  'POST /shutdown': { summary: 'Stop the server (scope admin)' },
}

const predictions: Readonly<Record<string, RouteText>> = {
  'POST /v1/predictions': {
    summary: 'Make pictures with a version or a named model; Prefer: wait waits for them',
    reply: ReplicatePrediction,
  },
  'GET /v1/predictions': {
    summary: 'The predictions, newest first',
    reply: pageOf(ReplicatePrediction),
  },
  'GET /v1/predictions/:id': { summary: 'One prediction', reply: ReplicatePrediction },
  'POST /v1/predictions/:id/cancel': {
    summary: 'Cancel a prediction',
    reply: ReplicatePrediction,
  },
  'GET /v1/predictions/:id/deliveries': { summary: 'What became of its webhooks' },
  'POST /v1/predictions/:id/deliveries': { summary: 'Send its last webhook once more' },
  'GET /v1/files/stream-:token': {
    summary: 'Logs and pictures as server-sent events, and small previews with preview=1',
  },
}

const models: Readonly<Record<string, RouteText>> = {
  'GET /v1/models': { summary: 'The named models', reply: pageOf(Model) },
  'POST /v1/models': { summary: 'Add a model (scope admin)', reply: Model },
  'GET /v1/models/:owner/:name': { summary: 'One model', reply: Model },
  'PATCH /v1/models/:owner/:name': { summary: 'Change a model (scope admin)', reply: Model },
  'DELETE /v1/models/:owner/:name': { summary: 'Remove a model (scope admin)' },
  'GET /v1/models/:owner/:name/readme': { summary: 'What a model is, as markdown' },
  'GET /v1/models/:owner/:name/examples': {
    summary: 'Its examples, of which there are none',
    reply: pageOf(ReplicatePrediction),
  },
  'POST /v1/models/:owner/:name/predictions': {
    summary: 'Make pictures with a named model',
    reply: ReplicatePrediction,
  },
  'GET /v1/models/:owner/:name/versions': {
    summary: 'The versions of a model',
    reply: pageOf(ModelVersion),
  },
  'GET /v1/models/:owner/:name/versions/:version': {
    summary: 'One version, with the schema of its input',
    reply: ModelVersion,
  },
  'DELETE /v1/models/:owner/:name/versions/:version': { summary: 'Remove a version (scope admin)' },
  'GET /v1/search': { summary: 'Models that a text stands in' },
}

const deployments: Readonly<Record<string, RouteText>> = {
  'GET /v1/deployments': { summary: 'The deployments', reply: pageOf(Deployment) },
  'POST /v1/deployments': { summary: 'Add a deployment (scope admin)', reply: Deployment },
  'GET /v1/deployments/:owner/:name': { summary: 'One deployment', reply: Deployment },
  'PATCH /v1/deployments/:owner/:name': {
    summary: 'Change a deployment (scope admin)',
    reply: Deployment,
  },
  'DELETE /v1/deployments/:owner/:name': { summary: 'Remove a deployment (scope admin)' },
  'POST /v1/deployments/:owner/:name/predictions': {
    summary: 'Make pictures with a deployment',
    reply: ReplicatePrediction,
  },
}

const files: Readonly<Record<string, RouteText>> = {
  'POST /v1/files': { summary: 'Upload a file, as the part "content" of a form', reply: File },
  'GET /v1/files': { summary: 'The uploaded files', reply: pageOf(File) },
  'GET /v1/files/:id': { summary: 'One file', reply: File },
  'DELETE /v1/files/:id': { summary: 'Remove a file' },
  'GET /v1/files/:id/download': { summary: 'Its bytes, for whoever has the signed URL' },
  'GET /files/:id/:name': { summary: 'A picture, for whoever has its URL' },
}

const server: Readonly<Record<string, RouteText>> = {
  'GET /v1/account': { summary: 'Whose server this is', reply: Account },
  'GET /v1/hardware': { summary: 'What it runs on', reply: z.array(Hardware) },
  'GET /v1/webhooks/default/secret': {
    summary: 'What webhooks are signed with',
    reply: WebhookSecret,
  },
  'GET /v1/collections': {
    summary: 'The collections: there is one of everything',
    reply: pageOf(Collection),
  },
  'GET /v1/collections/:slug': { summary: 'One collection, with its models' },
  'GET /livez': { summary: 'Whether the process is alive' },
  'GET /readyz': { summary: 'Whether it takes predictions now, or why not' },
  'GET /metrics': { summary: 'Prometheus’ metrics (scope metrics)' },
}

/** Under which heading, and by method and path. */
export const routeTexts: Readonly<Record<string, Readonly<Record<string, RouteText>>>> = {
  Predictions: predictions,
  Models: models,
  Deployments: deployments,
  Files: files,
  Cog: cog,
  Server: server,
}
