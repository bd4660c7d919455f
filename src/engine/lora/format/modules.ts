/**
 * Every module of the networks that a LoRA may change, under every name that trainers use: BFL's,
 * diffusers', XLabs', and each of them with its dots turned into underscores. A name stands for
 * consecutive rows of the tensors that fluxd knows; OneTrainer numbers those rows (`qkv.0`).
 * Source: diffusers, loaders/lora_conversion_utils.py; F-4.2 and F-4.3.
 */
import {
  type ClipParams,
  type FluxParams,
  hiddenSize,
  mlpHidden,
  sinusoidDim,
} from '../../flux/params.js'

export type Part = { readonly name: string; readonly rows: number }

/** A module as a LoRA file sees it: its parts lie below each other. */
export type LoraModule = {
  readonly parts: readonly Part[]
  /** Columns of the weight; undefined for a norm, whose weight is a vector. */
  readonly inputs: number | undefined
  readonly hasBias: boolean
}

export type Modules = ReadonlyMap<string, LoraModule>

/** The transformer's modules by name. */
export function transformerModules(params: FluxParams): Modules {
  const table = createTable()
  addEmbedders(table, params)
  for (let i = 0; i < params.doubleBlocks; i++) addDoubleBlock(table, params, i)
  for (let i = 0; i < params.singleBlocks; i++) addSingleBlock(table, params, i)
  return table.modules
}

/** CLIP's modules by name. T5 has no table: its parts of a file are ignored, as in diffusers. */
export function clipModules({ layers, hidden, mlpHidden }: ClipParams): Modules {
  const table = createTable()
  for (let i = 0; i < layers; i++) {
    const layer = `text_model.encoder.layers.${i}`
    for (const part of ['q', 'k', 'v', 'out']) {
      const name = `${layer}.self_attn.${part}_proj`
      // Files of the attention-processor era say to_q_lora.
      table.add([name, `${layer}.self_attn.to_${part}`], [{ name, rows: hidden }], hidden)
    }
    table.same(`${layer}.mlp.fc1`, mlpHidden, hidden)
    table.same(`${layer}.mlp.fc2`, hidden, mlpHidden)
    for (const norm of ['layer_norm1', 'layer_norm2']) table.norm(`${layer}.${norm}`, hidden)
  }
  table.norm('text_model.final_layer_norm', hidden)
  return table.modules
}

type Table = ReturnType<typeof createTable>

function createTable() {
  const modules = new Map<string, LoraModule>()

  function put(names: readonly string[], module: LoraModule) {
    for (const name of names) {
      modules.set(name, module)
      modules.set(name.replaceAll('.', '_'), module)
    }
  }

  function add(names: readonly string[], parts: readonly Part[], inputs: number) {
    put(names, { parts, inputs, hasBias: true })
    if (parts.length === 1) return
    parts.forEach((part, i) => {
      put(
        names.map((name) => `${name}.${i}`),
        { parts: [part], inputs, hasBias: true },
      )
    })
  }

  const vector = (names: readonly string[], part: Part, hasBias: boolean) =>
    put(names, { parts: [part], inputs: undefined, hasBias })

  return {
    modules,
    add,
    same: (name: string, rows: number, inputs: number) => add([name], [{ name, rows }], inputs),
    /** The scale of an RMS norm, which has no bias. */
    scale: (names: readonly string[], name: string, rows: number) =>
      vector(names, { name, rows }, false),
    norm: (name: string, rows: number) => vector([name], { name, rows }, true),
  }
}

function addEmbedders(table: Table, params: FluxParams) {
  const width = hiddenSize(params)
  const { inChannels, txtDim, vecDim } = params
  const whole = (bfl: string, name: string, rows: number, inputs: number) =>
    table.add([bfl, name], [{ name, rows }], inputs)
  const embedder = (bfl: string, name: string, inputs: number) => {
    whole(`${bfl}.in_layer`, `time_text_embed.${name}.linear_1`, width, inputs)
    whole(`${bfl}.out_layer`, `time_text_embed.${name}.linear_2`, width, width)
  }
  whole('img_in', 'x_embedder', width, inChannels)
  whole('txt_in', 'context_embedder', width, txtDim)
  embedder('time_in', 'timestep_embedder', sinusoidDim)
  embedder('vector_in', 'text_embedder', vecDim)
  embedder('guidance_in', 'guidance_embedder', sinusoidDim)
  whole('final_layer.linear', 'proj_out', inChannels, width)
  // The two layouts write the halves of the final modulation in opposite order.
  const shift = { name: 'norm_out.shift', rows: width }
  const scale = { name: 'norm_out.scale', rows: width }
  table.add(['final_layer.adaLN_modulation.1'], [shift, scale], width)
  table.add(['norm_out.linear'], [scale, shift], width)
}

// A stream's names: BFL's, the number XLabs gives it, diffusers'.
const streams = [
  {
    bfl: 'img',
    xlabs: 1,
    modulation: 'norm1',
    mlp: 'ff',
    proj: ['to_out.0', 'to_out'],
    qkv: ['to_q', 'to_k', 'to_v'],
    fused: 'to_qkv',
    normQ: 'norm_q',
    normK: 'norm_k',
  },
  {
    bfl: 'txt',
    xlabs: 2,
    modulation: 'norm1_context',
    mlp: 'ff_context',
    proj: ['to_add_out'],
    qkv: ['add_q_proj', 'add_k_proj', 'add_v_proj'],
    fused: 'to_added_qkv',
    normQ: 'norm_added_q',
    normK: 'norm_added_k',
  },
] as const

function addDoubleBlock(table: Table, params: FluxParams, index: number) {
  const [width, wide] = [hiddenSize(params), mlpHidden(params)]
  const bfl = `double_blocks.${index}`
  const block = `transformer_blocks.${index}`
  const whole = (names: readonly string[], to: string, rows: number, inputs: number) => {
    const name = `${block}.${to}`
    table.add([name, ...names.map((each) => `${bfl}.${each}`)], [{ name, rows }], inputs)
  }
  for (const stream of streams) {
    const processor = (what: string) => `processor.${what}_lora${stream.xlabs}`
    const attention = `${stream.bfl}_attn`
    whole([`${stream.bfl}_mod.lin`], `${stream.modulation}.linear`, 6 * width, width)
    table.add(
      [
        ...stream.proj.map((name) => `${block}.attn.${name}`),
        `${bfl}.${attention}.proj`,
        `${bfl}.${processor('proj')}`,
      ],
      [{ name: `${block}.attn.${stream.proj[0]}`, rows: width }],
      width,
    )
    whole([`${stream.bfl}_mlp.0`], `${stream.mlp}.net.0.proj`, wide, width)
    whole([`${stream.bfl}_mlp.2`], `${stream.mlp}.net.2`, width, wide)
    for (const part of stream.qkv) whole([], `attn.${part}`, width, width)
    table.add(
      [`${bfl}.${attention}.qkv`, `${bfl}.${processor('qkv')}`, `${block}.attn.${stream.fused}`],
      stream.qkv.map((part) => ({ name: `${block}.attn.${part}`, rows: width })),
      width,
    )
    for (const [what, to] of [
      ['query', stream.normQ],
      ['key', stream.normK],
    ] as const)
      addScale(table, params, `${bfl}.${attention}`, what, `${block}.attn.${to}`)
  }
}

function addSingleBlock(table: Table, params: FluxParams, index: number) {
  const [width, wide] = [hiddenSize(params), mlpHidden(params)]
  const bfl = `single_blocks.${index}`
  const block = `single_transformer_blocks.${index}`
  const whole = (names: readonly string[], to: string, rows: number, inputs: number) => {
    const name = `${block}.${to}`
    table.add([name, ...names.map((each) => `${bfl}.${each}`)], [{ name, rows }], inputs)
  }
  const qkv = ['to_q', 'to_k', 'to_v'].map((part) => ({
    name: `${block}.attn.${part}`,
    rows: width,
  }))
  whole(['modulation.lin'], 'norm.linear', 3 * width, width)
  whole(['linear2', 'processor.proj_lora'], 'proj_out', width, width + wide)
  whole([], 'proj_mlp', wide, width)
  for (const part of qkv) table.same(part.name, part.rows, width)
  table.add([`${bfl}.linear1_qkv`, `${bfl}.processor.qkv_lora`, `${block}.attn.to_qkv`], qkv, width)
  table.add([`${bfl}.linear1`], [...qkv, { name: `${block}.proj_mlp`, rows: wide }], width)
  addScale(table, params, bfl, 'query', `${block}.attn.norm_q`)
  addScale(table, params, bfl, 'key', `${block}.attn.norm_k`)
}

function addScale(table: Table, params: FluxParams, bfl: string, what: string, name: string) {
  table.scale([name, `${bfl}.norm.${what}_norm.scale`], name, params.headDim)
}
