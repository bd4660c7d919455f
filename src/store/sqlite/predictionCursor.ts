/** Where a prediction stands in lists: by its time and, within a millisecond, by its admission. */
export type Place = readonly [createdAt: number, sequence: number]

/** Later than any time, and after any admission. */
export const end = Number.MAX_SAFE_INTEGER

/** The place before everything that was created at `time`. */
export const startOf = (time: Date | undefined, otherwise: number): Place => [
  time?.getTime() ?? otherwise,
  0,
]

/** The one of two that comes first. */
export const earlier = (a: Place, b: Place): Place => (isBefore(a, b) ? a : b)

/** The one of two that comes last. */
export const later = (a: Place, b: Place): Place => (isBefore(a, b) ? b : a)

const isBefore = ([time, sequence]: Place, [otherTime, otherSequence]: Place) =>
  time < otherTime || (time === otherTime && sequence < otherSequence)
