/**
 * Which LoRAs a wish asks for, and how strongly. Scales are linear: the reference squares the main
 * one in bf16 and multiplies only that one in fp8, against what the fields' descriptions say.
 * Source: cog-flux bfl_predictor.py, LoraMixin.handle_loras.
 */
import type { FluxInput } from '../contract/input.js'
import type { LoraFile, LoraSource } from './plan.js'
import { pythonFloat } from './pythonFloat.js'

export type LoraFiles = {
  /** What `replicate_weights` and `extra_lora` refer to. */
  readonly main?: LoraSource | undefined
  readonly extra?: LoraSource | undefined
  /** Files that come with scales of their own; merged after those. */
  readonly more?: readonly LoraFile[]
}

type Scales = Pick<FluxInput, 'lora_scale' | 'extra_lora_scale'>

/** The LoRAs in the order in which they are merged, each scale times `multiplier`. */
export function chooseLoras(
  { lora_scale, extra_lora_scale }: Scales,
  { main, extra, more = [] }: LoraFiles = {},
  multiplier: number,
): LoraFile[] {
  const loras = [
    ...(main ? [{ ...main, scale: lora_scale }] : []),
    ...(extra ? [{ ...extra, scale: extra_lora_scale }] : []),
    ...more,
  ]
  return loras.map((lora) => ({ ...lora, scale: lora.scale * multiplier }))
}

/** The reference's words where there is an extra LoRA and no main one: it becomes the main one. */
export function notePromotion(
  { extra_lora = '', extra_lora_scale }: Scales & Pick<FluxInput, 'extra_lora'>,
  { main, extra }: LoraFiles = {},
): string[] {
  if (main || !extra) return []
  const name = withoutSecrets(extra_lora)
  return [
    `extra_lora_weights ${name} were found, and lora_weights were None! This shouldn't happen. ` +
      `Setting lora_weights to ${name} and lora_scale to extra_lora_scale: ${pythonFloat(extra_lora_scale)} and running.`,
  ]
}

/** A reference as a log may show it: credentials stand in front of a URL's host or in its query. */
const withoutSecrets = (reference: string) =>
  reference.startsWith('data:')
    ? 'data:…'
    : reference.replace(/\?.*$/s, '?…').replace(/\/\/[^/@]*@/, '//')
