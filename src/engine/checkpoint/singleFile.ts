/**
 * Single files with more than a transformer in them. ComfyUI's all-in-one checkpoints name the
 * parts `model.diffusion_model.`, `vae.`, `text_encoders.`; others put any prefix before BFL's
 * names. Which one it is follows from where the blocks are.
 */
import { invalidCheckpoint } from '../../errors.js'
import type { Tensors } from '../../safetensors/read.js'

// Parts that a file may hold next to a transformer without a prefix.
const otherPart =
  /^(vae|first_stage_model|text_encoders?(_2)?|cond_stage_model|conditioner|clip_l|t5xxl)\./

const block = /^(.*?)(?:double|single)_blocks\.\d+\./

/**
 * The transformer's tensors without their prefix; all tensors where none is a block's.
 * Throws `checkpoint_invalid` when blocks have more than one prefix.
 */
export function transformerPart(source: string, tensors: Tensors): Tensors {
  const prefixes = [...new Set([...tensors.keys()].flatMap((name) => block.exec(name)?.[1] ?? []))]
  const [prefix, other] = prefixes
  if (other !== undefined)
    throw invalidCheckpoint(
      `${source}: expected one transformer but there are blocks named ${prefix}… and ${other}…`,
    )
  if (prefix === undefined) return tensors
  const isPart = (name: string) => (prefix === '' ? !otherPart.test(name) : name.startsWith(prefix))
  return withoutPrefix(tensors, prefix, isPart)
}

/** The autoencoder's tensors, named as in ae.safetensors; undefined where the file has none. */
export function autoencoderPart(tensors: Tensors): Tensors | undefined {
  const prefix = ['vae.', 'first_stage_model.'].find((each) =>
    tensors.has(`${each}decoder.conv_in.weight`),
  )
  if (prefix === undefined) return undefined
  return withoutPrefix(tensors, prefix, (name) => name.startsWith(prefix))
}

const withoutPrefix = (
  tensors: Tensors,
  prefix: string,
  isPart: (name: string) => boolean,
): Tensors =>
  new Map(
    [...tensors]
      .filter(([name]) => isPart(name))
      .map(([name, slice]) => [name.slice(prefix.length), slice]),
  )
