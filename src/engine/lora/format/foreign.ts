/** What a LoRA file is when it is none for Flux.1 dev or schnell. */

const otherModels: readonly (readonly [RegExp, string])[] = [
  [/double_stream_modulation|to_qkv_mlp_proj/, 'FLUX.2'],
  [/distilled_guidance_layer/, 'Chroma'],
  [/double_blocks\.\d+\.img_attn_qkv/, 'HunyuanVideo'],
  [/joint_blocks/, 'Stable Diffusion 3'],
  [/(input|output|middle)_blocks?[._]\d/, 'Stable Diffusion XL'],
  [/(down|up|mid)_blocks?[._]/, 'Stable Diffusion 1, 2 or XL'],
  [/transformer_blocks[._]\d+[._](img|txt)_(mod|mlp)[._]/, 'Qwen-Image'],
  [/blocks[._]\d+[._](cross_attn|self_attn)[._]/, 'Wan'],
]

/** What adapts a linear layer in ways that are not added to it, or only in convolutions. */
const otherKinds: readonly (readonly [RegExp, string])[] = [
  [/\.(oft_|boft|oft_blocks|oft_diag)|^oft_unet_/, 'OFT'],
  [/\.(a1|a2|b1|b2)\.weight$/, 'GLoRA'],
  [/\.(hada_t1|hada_t2|lokr_t2|lora_mid\.weight)$/, 'a Tucker decomposition'],
  [/\.(set_weight|reshape_weight)$/, 'a replaced or reshaped weight'],
  [/\.(on_input|rescale)$/, 'an adapter of activations'],
]

/** What a key is, as words that follow it in a sentence; undefined where nothing is recognised. */
export function describeForeignKey(key: string): string | undefined {
  const kind = find(otherKinds, key)
  if (kind) return `is part of ${kind}, which cannot be merged`
  const model = find(otherModels, key)
  return model && `names no layer of it, which is of a LoRA for ${model}`
}

/** Whether the key is of a kind of adapter that cannot be merged. */
export const isOtherKind = (key: string) => find(otherKinds, key) !== undefined

const find = (table: readonly (readonly [RegExp, string])[], key: string) =>
  table.find(([pattern]) => pattern.test(key))?.[1]

/**
 * BFL's control LoRAs (flux1-canny-dev-lora, flux1-depth-dev-lora) bring whole norm scales, which
 * no other kind of LoRA does.
 */
export const isControlKey = (key: string) => /\.(query|key)_norm\.scale$/.test(key)
