/**
 * Files on the web hold one LoRA under several spellings. The changes of a tensor that two layers
 * of a file name are compared value by value at a few places: where all are the same, one of the
 * layers counts; where one differs, the file contradicts itself.
 */
import type { TensorSlice } from '../../../safetensors/read.js'
import { openValues, type ValueReader } from '../../../safetensors/scalar.js'
import type { Change, Delta, Factor } from './adapter.js'
import type { Group } from './deltas.js'

export type GroupDeltas = {
  readonly group: Group
  readonly deltas: readonly (readonly [string, Delta])[]
}

/** A tensor that two layers of a file change, differently or not in full. */
export type Contradiction = { readonly tensor: string; readonly group: Group; readonly by: Group }

export type Distinct = {
  readonly deltas: ReadonlyMap<string, readonly Delta[]>
  readonly kept: readonly Group[]
  /** Layers that repeat the changes of kept ones. */
  readonly repeated: readonly Group[]
  readonly contradictions: readonly Contradiction[]
}

/**
 * The changes of the file at `path`, each once. Reads values where layers name the same tensors.
 */
export function withoutRepetitions(path: string, given: readonly GroupDeltas[]): Distinct {
  const owners = new Map<string, GroupDeltas>()
  const repeated: Group[] = []
  const contradictions: Contradiction[] = []
  const reader = openValues(path)
  try {
    for (const each of inOrder(given)) {
      const names = [...new Set(each.deltas.map(([name]) => name))]
      const other = names.find((name) => owners.has(name))
      const differing = names.find((name) => !isRepeated(reader, name, each, owners.get(name)))
      if (other === undefined) for (const name of names) owners.set(name, each)
      else if (differing === undefined) repeated.push(each.group)
      else {
        const tensor = owners.has(differing) ? differing : other
        contradictions.push({ tensor, group: each.group, by: owners.get(tensor)!.group })
      }
    }
  } finally {
    reader.close()
  }
  const owning = new Set(owners.values())
  const kept = given.filter((each) => owning.has(each))
  return { deltas: deltasOf(kept), kept: kept.map(({ group }) => group), repeated, contradictions }
}

/** Fused layers first, so that their parts can repeat them; diffusers' spelling before others. */
const inOrder = (given: readonly GroupDeltas[]) =>
  [...given].sort((a, b) => b.deltas.length - a.deltas.length || preference(a) - preference(b))

const preference = ({ group }: GroupDeltas) => (group.key.scheme === 'diffusers' ? 0 : 1)

function deltasOf(given: readonly GroupDeltas[]) {
  const deltas = new Map<string, Delta[]>()
  for (const [name, delta] of given.flatMap(({ deltas }) => deltas))
    deltas.set(name, [...(deltas.get(name) ?? []), delta])
  return deltas
}

const isRepeated = (
  reader: ValueReader,
  name: string,
  a: GroupDeltas,
  b: GroupDeltas | undefined,
) => b !== undefined && areSame(reader, ofTensor(a, name), ofTensor(b, name))

const ofTensor = ({ deltas }: GroupDeltas, name: string) =>
  deltas.filter(([each]) => each === name).map(([, delta]) => delta)

// Of the products' terms: stored halves and their conversions differ by less, other LoRAs by more.
const tolerance = 0.03
const places = [0.113, 0.387, 0.641, 0.871]

function areSame(reader: ValueReader, a: readonly Delta[], b: readonly Delta[]): boolean {
  const magnitudes = [a, b].map((deltas) => deltas.find((delta) => delta.kind === 'dora'))
  const [one, other] = magnitudes
  if ((one === undefined) !== (other === undefined) || one?.normOver !== other?.normOver)
    return false
  return places.every((place) => {
    const isSameMagnitude =
      !one || !other || areClose(vectorAt(reader, one, place), vectorAt(reader, other, place))
    return isSameMagnitude && areClose(sumAt(reader, a, place), sumAt(reader, b, place))
  })
}

/** A value of a change, and the sum of its terms' sizes. */
type Sample = { readonly value: number; readonly size: number }

const areClose = (a: Sample, b: Sample) =>
  Math.abs(a.value - b.value) <= tolerance * Math.min(a.size, b.size)

function vectorAt(
  reader: ValueReader,
  { magnitude }: Extract<Delta, { kind: 'dora' }>,
  at: number,
) {
  const value = reader.read(magnitude, Math.floor(at * magnitude.shape[0]!))
  return { value, size: Math.abs(value) }
}

function sumAt(reader: ValueReader, deltas: readonly Delta[], place: number): Sample {
  const changes = deltas.flatMap((delta) => (delta.kind === 'dora' ? delta.changes : delta))
  const samples = changes.map((change) => changeAt(reader, change, place))
  return {
    value: samples.reduce((sum, { value }) => sum + value, 0),
    size: samples.reduce((sum, { size }) => sum + size, 0),
  }
}

function changeAt(reader: ValueReader, change: Change, place: number): Sample {
  const [rows, columns] = shapeOf(change)
  const row = Math.floor(place * rows)
  const column = Math.floor((1 - place) * columns)
  return scaled(valueAt(reader, change, row, column), change.factor)
}

function shapeOf(change: Change): readonly [number, number] {
  switch (change.kind) {
    case 'lowRank':
      return sizeOf([change.up, change.down])
    case 'loha':
      return sizeOf(change.first)
    case 'lokr':
      return [
        change.rows.end - change.rows.begin,
        sizeOf(change.first)[1] * sizeOf(change.second)[1],
      ]
    case 'full':
      return [change.values.shape[0]!, change.values.shape[1] ?? 1]
    default:
      return change satisfies never
  }
}

const sizeOf = (factor: Factor): readonly [number, number] => [
  factor[0].shape[0]!,
  factor[factor.length - 1]!.shape[1]!,
]

function valueAt(reader: ValueReader, change: Change, row: number, column: number): Sample {
  switch (change.kind) {
    case 'lowRank':
      return factorAt(reader, [change.up, change.down], row, column)
    case 'loha':
      return times(
        factorAt(reader, change.first, row, column),
        factorAt(reader, change.second, row, column),
      )
    case 'lokr': {
      const [rows, columns] = sizeOf(change.second)
      const whole = row + change.rows.begin
      return times(
        factorAt(reader, change.first, Math.floor(whole / rows), Math.floor(column / columns)),
        factorAt(reader, change.second, whole % rows, column % columns),
      )
    }
    case 'full':
      return factorAt(reader, [change.values], row, column)
    default:
      return change satisfies never
  }
}

const times = (a: Sample, b: Sample): Sample => ({
  value: a.value * b.value,
  size: a.size * b.size,
})

const scaled = (sample: Sample, factor: number) =>
  times(sample, { value: factor, size: Math.abs(factor) })

function factorAt(reader: ValueReader, factor: Factor, row: number, column: number): Sample {
  const at = (slice: TensorSlice, i: number, j: number) =>
    reader.read(slice, i * (slice.shape[1] ?? 1) + j)
  const [up, down] = factor
  if (!down) {
    const value = at(up, row, column)
    return { value, size: Math.abs(value) }
  }
  let value = 0
  let size = 0
  for (let r = 0; r < down.shape[0]!; r++) {
    const term = at(up, row, r) * at(down, r, column)
    value += term
    size += Math.abs(term)
  }
  return { value, size }
}
