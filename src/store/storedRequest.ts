/** What a prediction is to make, and how it is stored beside the input that was sent. */
import type { FluxInput } from '../contract/input.js'
import type { Prediction } from '../contract/prediction.js'

/** A LoRA as a model of the catalog or a request names it. */
export type LoraReference = {
  readonly source: string
  /** Where it lies, if it is a file on this machine; others are to be fetched. */
  readonly path?: string
  /** The model's times the wish's. */
  readonly scale: number
  readonly sha256?: string
}

/** What a prediction is to make: the validated input, its seed drawn, and the LoRAs it comes to. */
export type Wish = {
  readonly input: FluxInput
  readonly loras: {
    readonly main: readonly LoraReference[]
    readonly extra: readonly LoraReference[]
  }
}

/** A wish as it is stored: what is in its input as it was sent (up to 100 MB) is not stored twice. */
export type SplitWish = {
  readonly asSent: readonly string[]
  readonly own: Partial<FluxInput>
  readonly loras: Wish['loras']
}

/** `wish` without what is in `sent`. */
export function splitWish({ input, loras }: Wish, sent: Prediction['input']): SplitWish {
  const fields = Object.entries(input)
  const isSent = ([name, value]: [string, unknown]) => sent[name] === value
  return {
    asSent: fields.filter(isSent).map(([name]) => name),
    own: Object.fromEntries(fields.filter((field) => !isSent(field))),
    loras,
  }
}

/** The wish that was split from the same `sent`. */
export const joinWish = ({ asSent, own, loras }: SplitWish, sent: Prediction['input']): Wish => ({
  input: { ...own, ...Object.fromEntries(asSent.map((name) => [name, sent[name]])) } as FluxInput,
  loras,
})
