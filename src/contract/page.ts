/** One page of a list of `/v1`. `next` and `previous` are absolute: clients request them as they are. */
export type Page<T> = {
  readonly next: string | null
  readonly previous: string | null
  readonly results: readonly T[]
}

/** The page of a list that is never so long that it has to be cut. */
export const wholePage = <T>(results: readonly T[]): Page<T> => ({
  next: null,
  previous: null,
  results,
})
