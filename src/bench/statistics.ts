/** Median and range of a few measurements. */

/** `low` and `high` are the smallest and the largest. */
export type Spread = { readonly median: number; readonly low: number; readonly high: number }

/** The median of an even number of values is the mean of the two in the middle. */
export function spreadOf(values: readonly number[]): Spread {
  if (values.length === 0) throw new RangeError('Expected values to measure but got none')
  const sorted = [...values].sort((a, b) => a - b)
  const half = sorted.length / 2
  const median = (sorted[Math.ceil(half) - 1]! + sorted[Math.floor(half)]!) / 2
  return { median, low: sorted[0]!, high: sorted.at(-1)! }
}

export const medianOf = (values: readonly number[]) => spreadOf(values).median

/** Four significant digits: more is noise. */
export const round = (value: number) => Number(value.toPrecision(4))
