/**
 * Checkpoints whose values are packed: several in a byte, with tables of their own. They are named
 * and refused before their shapes, which are no layer's, lead to another message.
 */
import { invalidCheckpoint } from '../../errors.js'
import type { Tensors } from '../../safetensors/read.js'
import type { StoredDType } from '../../safetensors/tensor.js'

// The first that any tensor's name fits counts.
const signs: readonly (readonly [RegExp, string])[] = [
  [/\.quant_state\.bitsandbytes__nf4$/, 'NF4 of bitsandbytes'],
  [/\.quant_state\.bitsandbytes__fp4$/, 'FP4 of bitsandbytes'],
  [/\.(nested_)?(absmax|quant_map)$|\.quant_state\./, '4 bits of bitsandbytes'],
  [/\.(SCB|weight_format)$/, 'int8 of bitsandbytes'],
  [/\.(wscales|wzeros|wtscale|wcscales|smooth(_factor)?(_orig)?)$/, 'SVDQuant of Nunchaku'],
  [/\.(qweight|qzeros|g_idx)$/, 'GPTQ or AWQ'],
  [/\.weight_scale_2$/, 'NVFP4'],
  [/\.(weight_packed|weight_zero_point|weight_shape)$/, 'compressed-tensors'],
  [/\.weight\._(data|scale|shift)$/, 'optimum-quanto'],
  [/\.weight[._:](.*_)?(qdata|tensor_impl|int_data|zero_point)\b/, 'torchao'],
  [/\.(weight_hqq|W_q|meta\.(scale|zero))$/, 'HQQ'],
]

// In all of these a tensor holds the values of its shape, one by one.
const plain: readonly StoredDType[] = ['F64', 'F32', 'F16', 'BF16', 'F8_E4M3', 'F8_E5M2']

/** Throws `checkpoint_invalid` naming the method when weights are quantised in a packed form. */
export function refuseQuantised(source: string, tensors: Tensors) {
  const method = methodOf(tensors)
  if (method)
    throw invalidCheckpoint(
      `${source}: expected plain weights (BF16, F16, F32 or fp8) but it is quantised: ${method}, ` +
        'which is not supported; use the checkpoint that it was made from',
    )
}

function methodOf(tensors: Tensors): string | undefined {
  const names = [...tensors.keys()]
  const known = signs.find(([pattern]) => names.some((name) => pattern.test(name)))?.[1]
  if (known) return known
  const packed = [...tensors.values()].find(
    ({ name, dtype }) => name.endsWith('.weight') && !plain.includes(dtype),
  )
  return packed && `${packed.name} is ${packed.dtype} [${packed.shape}]`
}
