/**
 * The OpenAPI document of the Cog surface, derived from the zod schemas: Cog's component names and
 * operation ids, and each enum field a component of its own (C-0.2, C-2.1).
 */
import { z } from 'zod'
import { CogPredictionRequest, CogWebhookEvent, PredictionResponse } from './cog.js'
import { HealthCheck } from './health.js'
import { FluxInput, Output } from './input.js'
import { dialect, inputJsonSchema, type JsonObject, plain } from './jsonSchema.js'
import { PredictionStatus } from './prediction.js'
import { HttpValidationError, ValidationError } from './validation.js'

/** The document at `GET /openapi.json`. */
export function openApiDocument(): JsonObject {
  return {
    openapi: '3.0.2',
    info: {
      title: 'Cog',
      version: '0.1.0',
      license: { name: 'Apache-2.0', url: 'https://www.apache.org/licenses/LICENSE-2.0' },
    },
    servers: [{ url: '/' }],
    // Cog's clients send no key; where one is needed, /docs says so.
    security: [],
    paths: {
      '/': { get: operation('Root', 'root__get', json({})) },
      '/health-check': {
        get: operation('Healthcheck', 'healthcheck_health_check_get', json(ref('HealthCheck'))),
      },
      '/predictions': { post: predictOperation('Predict', 'predict_predictions_post') },
      '/predictions/{prediction_id}': {
        put: {
          ...predictOperation(
            'Predict Idempotent',
            'predict_idempotent_predictions__prediction_id__put',
          ),
          parameters: [predictionId],
        },
      },
      '/predictions/{prediction_id}/cancel': {
        post: {
          ...operation('Cancel', 'cancel_predictions__prediction_id__cancel_post', json({})),
          parameters: [predictionId],
        },
      },
      '/shutdown': {
        post: operation('Start Shutdown', 'start_shutdown_shutdown_post', json({})),
      },
    },
    components: { schemas: componentSchemas() },
  }
}

const predictionId = {
  name: 'prediction_id',
  in: 'path',
  required: true,
  schema: { type: 'string', title: 'Prediction ID' },
} as const

function predictOperation(summary: string, operationId: string): JsonObject {
  const predict = operation(summary, operationId, json(ref('PredictionResponse')))
  const running = { description: 'Accepted', content: json(ref('PredictionResponse')) }
  return {
    ...predict,
    description: 'Run a single prediction on the model',
    requestBody: { content: json(ref('PredictionRequest')) },
    responses: {
      ...predict.responses,
      '202': running,
      '422': { description: 'Validation Error', content: json(ref('HTTPValidationError')) },
    },
  }
}

const operation = (summary: string, operationId: string, content: JsonObject) => ({
  summary,
  operationId,
  responses: { '200': { description: 'Successful Response', content } },
})

function componentSchemas(): JsonObject {
  const { input, enums } = extractEnums(inputJsonSchema())
  return { ...wireSchemas(), Input: input, ...enums }
}

/** Every wire object under its Cog name; references between them are `$ref`s. */
function wireSchemas(): JsonObject {
  const names = z.registry<{ id: string }>()
  names.add(FluxInput, { id: 'Input' })
  names.add(Output, { id: 'Output' })
  names.add(CogPredictionRequest, { id: 'PredictionRequest' })
  names.add(PredictionResponse, { id: 'PredictionResponse' })
  names.add(PredictionStatus, { id: 'Status' })
  names.add(CogWebhookEvent, { id: 'WebhookEvent' })
  names.add(HealthCheck, { id: 'HealthCheck' })
  names.add(HttpValidationError, { id: 'HTTPValidationError' })
  names.add(ValidationError, { id: 'ValidationError' })
  const { schemas } = z.toJSONSchema(names, { ...dialect, uri: componentUri })
  return Object.fromEntries(Object.entries(schemas).map(([id, schema]) => [id, plain(schema)]))
}

/** Makes each enum field a component of its own name, as Cog does: `allOf: [{ $ref }]`. */
function extractEnums(schema: JsonObject): { input: JsonObject; enums: JsonObject } {
  const fields = Object.entries(schema['properties'] as Record<string, JsonObject>)
  const enums: Record<string, JsonObject> = {}
  const properties = fields.map(([name, field]) => {
    if (field['enum'] === undefined) return [name, field]
    const { enum: values, type, title, ...rest } = field
    enums[name] = { enum: values, type, title, description: 'An enumeration.' }
    return [name, { allOf: [ref(name)], ...rest }]
  })
  return { input: { ...schema, properties: Object.fromEntries(properties) }, enums }
}

const componentUri = (id: string) => `#/components/schemas/${id}`
const ref = (id: string): JsonObject => ({ $ref: componentUri(id) })
const json = (schema: JsonObject): JsonObject => ({ 'application/json': { schema } })
