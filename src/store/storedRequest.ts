/**
 * What a prediction is to make, as a row keeps it: values of the input that are in the echo (up to
 * 100 MB) are not stored twice.
 */
import { z } from 'zod'
import { FluxInput } from '../contract/input.js'
import type { Prediction } from '../contract/prediction.js'
import type { LoraRef } from '../plan/loraRef.js'
import type { RequestedWork } from '../predictions/request.js'

/** A file that came inside the input is named by a scheme that no client may send. */
const StoredInput = FluxInput.extend({ image: z.string().optional(), mask: z.string().optional() })

type StoredRequest = {
  /** Fields that are as they were sent. */
  readonly asSent: readonly string[]
  readonly own: Partial<FluxInput>
  readonly loras: readonly LoraRef[] | LorasByRole
}

/** How releases before 0.2 wrote LoRAs. */
type LorasByRole = {
  readonly main: readonly UnnamedLora[]
  readonly extra: readonly UnnamedLora[]
}

type UnnamedLora = Omit<LoraRef, 'role' | 'name'>

/** `work` as JSON, without what is in `echo`. */
export function writeRequest({ input, loras }: RequestedWork, echo: Prediction['input']): string {
  const fields = Object.entries(input)
  const isSent = ([name, value]: [string, unknown]) => echo[name] === value
  const request: StoredRequest = {
    asSent: fields.filter(isSent).map(([name]) => name),
    own: Object.fromEntries(fields.filter((field) => !isSent(field))),
    loras,
  }
  return JSON.stringify(request)
}

/** The work that was written beside the same `echo`. Throws when the row does not hold one. */
export function readRequest(json: string, echo: Prediction['input']): RequestedWork {
  const { asSent, own, loras } = JSON.parse(json) as StoredRequest
  const sent = Object.fromEntries(asSent.map((name) => [name, echo[name]]))
  return { input: StoredInput.parse({ ...own, ...sent }), loras: toRefs(loras) }
}

function toRefs(loras: StoredRequest['loras']): readonly LoraRef[] {
  if (Array.isArray(loras)) return loras
  const { main, extra } = loras as LorasByRole
  return [
    ...main.map((lora) => withRole(lora, 'main')),
    ...extra.map((lora) => withRole(lora, 'extra')),
  ]
}

const withRole = (lora: UnnamedLora, role: LoraRef['role']): LoraRef => ({
  ...lora,
  role,
  name: lora.path === undefined ? `the ${role} LoRA` : lora.source,
})
