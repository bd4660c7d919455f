/**
 * BFL's single file: its tensors renamed to diffusers' names. Fused tensors are taken apart by
 * rows. Source: BFL flux, src/flux/model.py; diffusers, scripts/convert_flux_to_diffusers.py.
 */
import { invalidCheckpoint } from '../../errors.js'
import { sliceRows, type TensorSlice, type Tensors } from '../../safetensors/read.js'
import type { FluxParams, RotaryAxes } from '../flux/params.js'

/** What does not follow from the tensors of a single file. */
export type BflOverrides = {
  readonly axes?: RotaryAxes
  readonly groups?: number
}

// Flux.1's rotary axes; only a file with another head size needs an override.
const fluxAxes: RotaryAxes = [16, 56, 56]

const moduleNames = {
  img_in: 'x_embedder',
  txt_in: 'context_embedder',
  'time_in.in_layer': 'time_text_embed.timestep_embedder.linear_1',
  'time_in.out_layer': 'time_text_embed.timestep_embedder.linear_2',
  'vector_in.in_layer': 'time_text_embed.text_embedder.linear_1',
  'vector_in.out_layer': 'time_text_embed.text_embedder.linear_2',
  'guidance_in.in_layer': 'time_text_embed.guidance_embedder.linear_1',
  'guidance_in.out_layer': 'time_text_embed.guidance_embedder.linear_2',
  'final_layer.linear': 'proj_out',
} as const

const doubleNames = {
  'img_mod.lin': 'norm1.linear',
  'txt_mod.lin': 'norm1_context.linear',
  'img_attn.proj': 'attn.to_out.0',
  'txt_attn.proj': 'attn.to_add_out',
  'img_mlp.0': 'ff.net.0.proj',
  'img_mlp.2': 'ff.net.2',
  'txt_mlp.0': 'ff_context.net.0.proj',
  'txt_mlp.2': 'ff_context.net.2',
} as const

const doubleScales = {
  'img_attn.norm.query_norm.scale': 'attn.norm_q.weight',
  'img_attn.norm.key_norm.scale': 'attn.norm_k.weight',
  'txt_attn.norm.query_norm.scale': 'attn.norm_added_q.weight',
  'txt_attn.norm.key_norm.scale': 'attn.norm_added_k.weight',
} as const

/** The transformer of a BFL file under diffusers' names, and its params. */
export function readBflTransformer(source: string, tensors: Tensors, overrides: BflOverrides) {
  const params = bflParams(source, tensors, overrides)
  return { params, tensors: renameBfl(source, tensors, params) }
}

function bflParams(source: string, tensors: Tensors, overrides: BflOverrides): FluxParams {
  const shape = (name: string) => need(source, tensors, name).shape
  const [width = 0, inChannels = 0] = shape('img_in.weight')
  const headDim = shape(scaleName(tensors))[0]!
  const axes = overrides.axes ?? fluxAxes
  if (axes.reduce((a, b) => a + b, 0) !== headDim)
    throw invalidCheckpoint(
      `${source}: expected rotary axes that add up to the head size ${headDim} but they are ` +
        `${axes}`,
    )
  if (width % headDim !== 0)
    throw invalidCheckpoint(
      `${source}: expected a width that the head size ${headDim} divides but it is ${width}`,
    )
  return {
    heads: width / headDim,
    headDim,
    doubleBlocks: countBlocks(tensors, /^double_blocks\.(\d+)\./),
    singleBlocks: countBlocks(tensors, /^single_blocks\.(\d+)\./),
    inChannels,
    txtDim: shape('txt_in.weight')[1]!,
    vecDim: shape('vector_in.in_layer.weight')[1]!,
    axes,
    guidance: tensors.has('guidance_in.in_layer.weight'),
  }
}

const scaleName = (tensors: Tensors) =>
  [...tensors.keys()].find((name) => name.endsWith('query_norm.scale')) ??
  'double_blocks.0.img_attn.norm.query_norm.scale'

const countBlocks = (tensors: Tensors, pattern: RegExp) =>
  1 + Math.max(-1, ...[...tensors.keys()].map((name) => Number(pattern.exec(name)?.[1] ?? -1)))

function need(source: string, tensors: Tensors, name: string): TensorSlice {
  const slice = tensors.get(name)
  if (!slice) throw invalidCheckpoint(`${source}: expected tensor ${name} but it is missing`)
  return slice
}

function renameBfl(source: string, tensors: Tensors, params: FluxParams): Tensors {
  const renamed = new Map<string, TensorSlice>()
  const left = new Set(tensors.keys())
  const width = params.heads * params.headDim

  function take(name: string) {
    left.delete(name)
    return need(source, tensors, name)
  }
  function whole(from: string, to: string) {
    for (const part of ['weight', 'bias']) renamed.set(`${to}.${part}`, take(`${from}.${part}`))
  }
  // Consecutive row ranges; the last part takes the rows that are left.
  function rows(from: string, parts: readonly string[]) {
    for (const part of ['weight', 'bias']) {
      const fused = take(`${from}.${part}`)
      parts.forEach((to, i) => {
        const end = i === parts.length - 1 ? fused.shape[0]! : (i + 1) * width
        renamed.set(`${to}.${part}`, sliceRows(fused, i * width, end))
      })
    }
  }

  for (const [from, to] of Object.entries(moduleNames))
    if (params.guidance || !from.startsWith('guidance_in')) whole(from, to)
  // BFL's final modulation is [shift, scale]; diffusers writes the halves the other way round.
  rows('final_layer.adaLN_modulation.1', ['norm_out.shift', 'norm_out.scale'])

  for (let i = 0; i < params.doubleBlocks; i++) {
    const [from, to] = [`double_blocks.${i}`, `transformer_blocks.${i}`]
    for (const [a, b] of Object.entries(doubleNames)) whole(`${from}.${a}`, `${to}.${b}`)
    for (const [a, b] of Object.entries(doubleScales))
      renamed.set(`${to}.${b}`, take(`${from}.${a}`))
    const split = (names: readonly string[]) => names.map((name) => `${to}.attn.${name}`)
    rows(`${from}.img_attn.qkv`, split(['to_q', 'to_k', 'to_v']))
    rows(`${from}.txt_attn.qkv`, split(['add_q_proj', 'add_k_proj', 'add_v_proj']))
  }
  for (let i = 0; i < params.singleBlocks; i++) {
    const [from, to] = [`single_blocks.${i}`, `single_transformer_blocks.${i}`]
    whole(`${from}.modulation.lin`, `${to}.norm.linear`)
    whole(`${from}.linear2`, `${to}.proj_out`)
    rows(`${from}.linear1`, [
      ...['to_q', 'to_k', 'to_v'].map((name) => `${to}.attn.${name}`),
      `${to}.proj_mlp`,
    ])
    renamed.set(`${to}.attn.norm_q.weight`, take(`${from}.norm.query_norm.scale`))
    renamed.set(`${to}.attn.norm_k.weight`, take(`${from}.norm.key_norm.scale`))
  }
  const [foreign] = left
  if (foreign)
    throw invalidCheckpoint(
      `${source}: ${left.size} tensors have no place in Flux.1, the first is ${foreign}`,
    )
  return renamed
}

/** diffusers' own file with the halves of its final modulation, [scale, shift], taken apart. */
export function splitFinalModulation(tensors: Tensors): Tensors {
  const split = new Map(tensors)
  for (const part of ['weight', 'bias']) {
    const fused = tensors.get(`norm_out.linear.${part}`)
    if (!fused) continue
    const half = Math.floor((fused.shape[0] ?? 0) / 2)
    split.delete(fused.name)
    split.set(`norm_out.scale.${part}`, sliceRows(fused, 0, half))
    split.set(`norm_out.shift.${part}`, sliceRows(fused, half, fused.shape[0] ?? 0))
  }
  return split
}
