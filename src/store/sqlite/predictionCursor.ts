/** Where a prediction stands in lists: by its time and, within a millisecond, by its admission. */
export type Cursor = readonly [createdAt: number, sequence: number]

/** Later than any time, and after any admission. */
export const end = Number.MAX_SAFE_INTEGER

/** The place before everything that was created at `time`. */
export const startOf = (time: Date | undefined, otherwise: number): Cursor => [
  time?.getTime() ?? otherwise,
  0,
]

/** The one of two that comes first. */
export const earlier = (a: Cursor, b: Cursor): Cursor => (isBefore(a, b) ? a : b)

/** The one of two that comes last. */
export const later = (a: Cursor, b: Cursor): Cursor => (isBefore(a, b) ? b : a)

const isBefore = ([time, sequence]: Cursor, [otherTime, otherSequence]: Cursor) =>
  time < otherTime || (time === otherTime && sequence < otherSequence)
