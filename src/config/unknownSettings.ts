/** Variables that look like settings but are none: a typo would otherwise be ignored in silence. */

/** Variables with the prefix that others set: Kubernetes for a service named fluxd, and tests. */
const foreign = /^FLUXD_(?:SERVICE_(?:HOST|PORT\w*)|PORT_\d+_(?:TCP|UDP)\w*|TEST_\w+)$/

/**
 * A sentence for each `FLUXD_*` variable of `variables` that is not in `known`, with the name that
 * is probably meant; an empty variable counts as unset.
 */
export function describeUnknown(
  variables: Readonly<Record<string, string | undefined>>,
  known: readonly string[],
): string[] {
  const unknown = Object.entries(variables).flatMap(([name, value]) =>
    value && name.startsWith('FLUXD_') && !known.includes(name) && !foreign.test(name) ? name : [],
  )
  return unknown.sort().map((name) => {
    const nearest = findNearest(name, known)
    return `There is no setting ${name}${nearest === undefined ? '' : `; did you mean ${nearest}?`}`
  })
}

/** The known name with the fewest edits; if it takes too many, one that contains the name. */
function findNearest(name: string, known: readonly string[]): string | undefined {
  const edits = known.map((each) => ({ each, count: countEdits(name, each) }))
  const [nearest] = edits.sort((a, b) => a.count - b.count)
  const stem = name.replace(/^FLUXD_/, '')
  // More edits than these turn most names into some other one.
  const maxEdits = Math.max(2, Math.floor(stem.length / 4))
  if (nearest && nearest.count <= maxEdits) return nearest.each
  return known.find(
    (each) => each.startsWith(name) || name.startsWith(each) || each.endsWith(`_${stem}`),
  )
}

/** The Levenshtein distance: insertions, deletions and replacements of one character. */
function countEdits(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, column) => column)
  for (let row = 1; row <= a.length; row++) {
    const current = [row]
    for (let column = 1; column <= b.length; column++)
      current.push(
        Math.min(
          previous[column]! + 1,
          current[column - 1]! + 1,
          previous[column - 1]! + (a[row - 1] === b[column - 1] ? 0 : 1),
        ),
      )
    previous = current
  }
  return previous[b.length]!
}
