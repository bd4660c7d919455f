/** The shapes of the networks. They come from a config or from tensors, never from a constant. */

/** Rotary dims of the id axes: 0, row, column. */
export type RotaryAxes = readonly [number, number, number]

export type FluxParams = {
  readonly heads: number
  readonly headDim: number
  readonly doubleBlocks: number
  readonly singleBlocks: number
  readonly inChannels: number
  /** Width of T5's hidden states. */
  readonly txtDim: number
  /** Width of CLIP's pooled vector. */
  readonly vecDim: number
  /** Rotary dims of the id axes; they add up to headDim. */
  readonly axes: RotaryAxes
  /** dev embeds guidance, schnell does not: the only difference between their networks. */
  readonly guidance: boolean
}

export type AutoencoderParams = {
  readonly channels: readonly number[]
  readonly layersPerBlock: number
  readonly latentChannels: number
  readonly groups: number
  readonly scalingFactor: number
  readonly shiftFactor: number
}

export type ClipParams = {
  readonly hidden: number
  readonly layers: number
  readonly heads: number
  readonly mlpHidden: number
  readonly vocabulary: number
  readonly positions: number
  readonly epsilon: number
}

export type T5Params = {
  readonly hidden: number
  readonly layers: number
  readonly heads: number
  readonly headDim: number
  readonly mlpHidden: number
  readonly vocabulary: number
  readonly buckets: number
  readonly maxDistance: number
  readonly epsilon: number
}

/** A vision transformer: square images cut into square patches. */
export type VisionParams = {
  /** Sides of image and patch, in pixels. */
  readonly imageSide: number
  readonly patchSide: number
  readonly hidden: number
  readonly layers: number
  readonly heads: number
  readonly mlpHidden: number
  readonly epsilon: number
}

/** CLIP's vision tower and the concepts its embedding is compared with. */
export type ConceptParams = VisionParams & {
  readonly projection: number
  readonly concepts: number
  readonly specialCare: number
}

/** `labels` are the classes in the order of the logits. */
export type ClassifierParams = VisionParams & { readonly labels: readonly string[] }

/** D, the width of the residual stream. */
export const hiddenSize = ({ heads, headDim }: FluxParams) => heads * headDim

// Flux widens by 4 in every feed-forward layer (mlp_ratio).
export const mlpHidden = (params: FluxParams) => 4 * hiddenSize(params)

/** Values of the sinusoid that embeds timestep and guidance. */
export const sinusoidDim = 256

/** How noise levels are shifted; dev shifts with the number of image tokens, schnell does not. */
export type SchedulerParams = {
  readonly useDynamicShifting: boolean
  readonly shift: number
  readonly baseShift: number
  readonly maxShift: number
  readonly baseImageSeqLen: number
  readonly maxImageSeqLen: number
}
