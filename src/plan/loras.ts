/**
 * How strongly LoRAs are applied, and what is said of them. Scales are linear: the reference
 * squares the main one in bf16 and multiplies only that one in fp8, against what the fields'
 * descriptions say. Source: cog-flux bfl_predictor.py, LoraMixin.handle_loras.
 */
import type { FluxInput } from '../contract/input.js'
import { redact } from '../net/redact.js'
import type { LoraRef } from './loraRef.js'

/** The reference's words where there is an extra LoRA and no main one: it becomes the main one. */
export function notePromotion(
  { extra_lora = '', extra_lora_scale }: Pick<FluxInput, 'extra_lora' | 'extra_lora_scale'>,
  loras: readonly Pick<LoraRef, 'role'>[],
): string[] {
  const has = (wanted: LoraRef['role']) => loras.some(({ role }) => role === wanted)
  if (has('main') || !has('extra')) return []
  const name = redact(extra_lora)
  return [
    `extra_lora_weights ${name} were found, and lora_weights were None! This shouldn't happen. ` +
      `Setting lora_weights to ${name} and lora_scale to extra_lora_scale: ` +
      `${pythonFloat(extra_lora_scale)} and running.`,
  ]
}

/** 1 as `1.0`: a number as Python prints a float, for messages that clients may compare. */
export const pythonFloat = (value: number) =>
  Number.isInteger(value) ? value.toFixed(1) : String(value)
