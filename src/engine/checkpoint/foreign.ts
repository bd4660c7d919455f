/** Which model a file holds that is not the expected one. */
const signs: readonly (readonly [RegExp, string])[] = [
  [/\.lora_(A|B|up|down)\.|^lora_(unet|transformer)_|\.hada_w|\.lokr_w/, 'a LoRA'],
  [/double_stream_modulation/, 'a FLUX.2 transformer'],
  [/^([\w.]*diffusion_model\.)?joint_blocks\./, 'a Stable Diffusion 3 transformer'],
  [
    /^([\w.]*diffusion_model\.)?input_blocks\.|^down_blocks\.\d+\.attentions\./,
    'a Stable Diffusion UNet',
  ],
  [/^transformer_blocks\./, "a transformer under diffusers' names; pass its whole folder instead"],
  [/^decoder\.up(_blocks)?\./, 'an autoencoder'],
  [/^text_model\.|^text_projection/, 'a CLIP encoder'],
  [/^encoder\.block\.\d+\.layer\./, 'a T5 encoder'],
]

/** What these tensor names look like, as words that follow "this is". */
export function describeForeign(names: readonly string[]): string {
  const sign = signs.find(([pattern]) => names.some((name) => pattern.test(name)))
  return sign ? sign[1] : `a file of ${names.length} tensors such as ${names[0] ?? '(none)'}`
}

/** Which sibling of Flux.1 takes this many input channels, if it is a known one. */
export function describeInputChannels(channels: number): string {
  if (channels === 128) return 'a Flux.1 Canny or Depth control model'
  if (channels === 384) return 'a Flux.1 Fill model'
  return 'not a Flux.1 dev or schnell model'
}
