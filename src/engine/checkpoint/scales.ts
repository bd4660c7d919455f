/**
 * fp8 checkpoints. Plain ones hold values; scaled ones hold, for the fp8 weight of a layer, the
 * number that its values are to be multiplied by. ComfyUI wrote `<layer>.scale_weight` and a tensor
 * `scaled_fp8` first, and writes `<layer>.weight_scale` today. flux-fp8-api, which Replicate's
 * go_fast runs on, keeps the weight in `<layer>.float8_data` and its number in
 * `<layer>.scale_reciprocal`. Scales of activations are left out: fluxd measures activations.
 * Source: ComfyUI, QUANTIZATION.md and comfy/ops.py; flux-fp8-api, float8_quantize.py.
 */
import { invalidCheckpoint } from '../../errors.js'
import type { TensorSlice, Tensors } from '../../safetensors/read.js'
import { readScalar } from '../../safetensors/scalar.js'

const scaleName = /^(.*\.)(?:scale_weight|weight_scale)$/
const leftOut = /^scaled_fp8$|\.(scale_input|input_scale|comfy_quant)$/

/**
 * The tensors without those that describe the others, and each fp8 weight with its scale.
 * Throws `checkpoint_invalid` when a scale is no positive number, belongs to no fp8 weight, or is
 * missing where other weights of the file have one.
 */
export function attachScales(source: string, stored: Tensors): Tensors {
  const tensors = withUsualNames(stored)
  const scales = [...tensors].flatMap(([name, slice]) => {
    const layer = scaleName.exec(name)?.[1]
    return layer === undefined ? [] : [{ weight: `${layer}weight`, slice }]
  })
  const rest = new Map(
    [...tensors].filter(([name]) => !scaleName.test(name) && !leftOut.test(name)),
  )
  for (const { weight, slice } of scales) {
    const scaled = rest.get(weight)
    if (scaled?.dtype !== 'F8_E4M3')
      throw invalidCheckpoint(
        `${source}: expected ${slice.name} to go with ${weight} in F8_E4M3 but that is ` +
          `${scaled?.dtype ?? 'missing'}`,
      )
    if (scaled.scale !== undefined)
      throw invalidCheckpoint(`${source}: expected one scale of ${weight} but there are two`)
    rest.set(weight, { ...scaled, scale: readScale(source, slice) })
  }
  if (scales.length > 0 || isMarked(stored)) refuseUnscaled(source, rest)
  return rest
}

const isMarked = (tensors: Tensors) =>
  [...tensors.keys()].some((name) => name === 'scaled_fp8' || name.endsWith('.float8_data'))

/** flux-fp8-api's tensors under ComfyUI's names; its `weight` is an empty placeholder. */
function withUsualNames(tensors: Tensors): Tensors {
  const renamed = new Map(tensors)
  for (const [name, slice] of tensors) {
    const layer = /^(.*\.)float8_data$/.exec(name)?.[1]
    if (layer === undefined) continue
    for (const left of ['float8_data', 'scale', 'scale_reciprocal', 'input_scale_reciprocal'])
      renamed.delete(`${layer}${left}`)
    renamed.set(`${layer}weight`, slice)
    const scale = tensors.get(`${layer}scale_reciprocal`)
    if (scale) renamed.set(`${layer}weight_scale`, scale)
  }
  return renamed
}

function readScale(source: string, slice: TensorSlice): number {
  const { name, dtype, shape } = slice
  const scale = readScalar(slice)
  if (scale === undefined)
    throw invalidCheckpoint(
      `${source}: expected ${name} to be one number for the whole tensor but it is ${dtype} ` +
        `[${shape}]`,
    )
  if (!(scale > 0 && Number.isFinite(scale)))
    throw invalidCheckpoint(`${source}: expected a positive number in ${name} but it is ${scale}`)
  return scale
}

function refuseUnscaled(source: string, tensors: Tensors) {
  for (const [name, { dtype, scale }] of tensors)
    if (dtype === 'F8_E4M3' && name.endsWith('.weight') && scale === undefined)
      throw invalidCheckpoint(
        `${source}: expected a scale of ${name}, as other fp8 weights of the file have one, but ` +
          'it is missing',
      )
}
