/**
 * Three lengths: pixels, latents (pixels/8) and tokens (2×2 latents, pixels/16).
 * Unpacked latents are [16, 2·rows, 2·cols], packed ones [rows·cols, 64]: the token of row r and
 * column c holds at 4·channel + 2·y + x the latent [channel, 2r + y, 2c + x].
 * Source: diffusers FluxPipeline._pack_latents; BFL src/flux/sampling.py, prepare and unpack.
 */
import type { PixelSize } from '../../plan/plan.js'

export const latentChannels = 16

/** Values of a packed token. */
export const tokenDim = 4 * latentChannels

const ropeTheta = 10_000

/** Rows and columns of tokens; `size` is in pixels, multiples of 16. */
export const tokenGrid = ({ width, height }: PixelSize) => ({
  tokenRows: height / 16,
  tokenCols: width / 16,
})

/** Packed latents [rows·cols, 64] of unpacked ones [16, 2·rows, 2·cols]. */
export function packLatents(latents: Float32Array, tokenRows: number, tokenCols: number) {
  const packed = new Float32Array(latents.length)
  forEachLatent(tokenRows, tokenCols, (unpackedAt, packedAt) => {
    packed[packedAt] = latents[unpackedAt]!
  })
  return packed
}

/** Unpacked latents [16, 2·rows, 2·cols] of packed ones [rows·cols, 64]. */
export function unpackLatents(packed: Float32Array, tokenRows: number, tokenCols: number) {
  const latents = new Float32Array(packed.length)
  forEachLatent(tokenRows, tokenCols, (unpackedAt, packedAt) => {
    latents[unpackedAt] = packed[packedAt]!
  })
  return latents
}

function forEachLatent(
  tokenRows: number,
  tokenCols: number,
  visit: (unpackedAt: number, packedAt: number) => void,
) {
  let unpackedAt = 0
  for (let channel = 0; channel < latentChannels; channel++)
    for (let row = 0; row < 2 * tokenRows; row++)
      for (let col = 0; col < 2 * tokenCols; col++) {
        const token = (row >> 1) * tokenCols + (col >> 1)
        visit(unpackedAt++, token * tokenDim + 4 * channel + 2 * (row & 1) + (col & 1))
      }
}

/**
 * cos and sin of the rotary position embedding, each [S, headDim/2] with S = txtLength + rows·cols:
 * one value per interleaved pair. Text comes first, at angle 0; an image token is at (0, row, col).
 * `axes` are the three parts of the head's dimension, (16, 56, 56) in Flux; angle k of an axis of
 * dimension D at position p is p·10000^(−2k/D), in float64.
 * Source: diffusers FluxPosEmbed, get_1d_rotary_pos_embed.
 */
export function ropeTables(
  txtLength: number,
  tokenRows: number,
  tokenCols: number,
  axes: readonly [number, number, number],
) {
  const [still, rowPairs, colPairs] = axes.map((dim) => dim / 2) as [number, number, number]
  const pairs = still + rowPairs + colPairs
  const tableOf = (wave: (angle: number) => number, atZero: number) => {
    const rows = axisTable(wave, tokenRows, axes[1])
    const cols = axisTable(wave, tokenCols, axes[2])
    const table = new Float32Array((txtLength + tokenRows * tokenCols) * pairs).fill(atZero)
    for (let row = 0, at = txtLength * pairs; row < tokenRows; row++)
      for (let col = 0; col < tokenCols; col++, at += pairs) {
        table.set(rows[row]!, at + still)
        table.set(cols[col]!, at + still + rowPairs)
      }
    return table
  }
  return { cos: tableOf(Math.cos, 1), sin: tableOf(Math.sin, 0) }
}

/** wave(position · ω_k) for every position of one axis, each [dim/2]. */
function axisTable(wave: (angle: number) => number, positions: number, dim: number) {
  return Array.from({ length: positions }, (_, position) =>
    Float32Array.from({ length: dim / 2 }, (_, k) =>
      wave(position * ropeTheta ** ((-2 * k) / dim)),
    ),
  )
}
