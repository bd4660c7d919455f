/**
 * Consecutive items in groups of at most `maxBytes`; one that is larger is a group of its own. The
 * thread that runs sessions is free for others between two groups.
 */
export function groupBySize<T>(
  items: readonly T[],
  bytesOf: (item: T) => number,
  maxBytes: number,
): T[][] {
  const groups: T[][] = []
  let bytes = Number.POSITIVE_INFINITY
  for (const item of items) {
    const size = bytesOf(item)
    if (bytes + size > maxBytes) {
      groups.push([])
      bytes = 0
    }
    groups.at(-1)!.push(item)
    bytes += size
  }
  return groups
}

// Reading this much of a LoRA file blocks the thread for a few hundredths of a second.
export const maxBytesAtOnce = 16 * 2 ** 20
