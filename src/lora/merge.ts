/**
 * Merges LoRAs into a model's weights:
 *
 *     W' = W + Σ scale·Δ    from the checkpoint's own W, in float32, rounded once at the end
 *
 * Small ONNX graphs do it, whose initializers point into the checkpoint and the LoRA files and
 * whose only input is the scales: another scale is another run of the same session.
 * Nothing is ever subtracted, so the order of past merges leaves no trace.
 */
import { createGraph, type Graph, type Value } from '../runtime/graph.js'
import type { TensorSlice } from '../runtime/safetensors.js'
import { createSession, type Session } from '../runtime/session.js'
import { elementCount, type FloatTensor, floatTensor } from '../runtime/tensor.js'
import type { Change, Delta, Dora, Factor, LoraAdapter } from './adapter.js'

/** `bf16` leaves values that bfloat16 can hold, nearest with ties to even. */
export type Rounding = 'float32' | 'bf16'

export type LoraUse = { readonly adapter: LoraAdapter; readonly scale: number }

/** The tensors that differ from the base model's, by name. */
export type MergedTensors = ReadonlyMap<string, FloatTensor>

/** A set of LoRAs over a base model, ready for any scales. */
export type Merger = {
  /**
   * The merged tensors for one scale per LoRA. A tensor that only LoRAs of scale 0 touch is left
   * out: it is the base model's.
   */
  readonly merge: (scales: readonly number[]) => Promise<MergedTensors>
  readonly release: () => Promise<void>
}

export type MergeOptions = { readonly rounding: Rounding; readonly threads: number }

// What one graph's float32 results may fill: they are all in memory at once.
const maxGroupBytes = 256 * 2 ** 20

/** The merged tensors of `base` with each LoRA at its scale; all LoRAs' deltas add up in order. */
export async function mergeLoras(
  base: ReadonlyMap<string, TensorSlice>,
  loras: readonly LoraUse[],
  options: MergeOptions,
): Promise<MergedTensors> {
  const active = loras.filter(({ scale }) => scale !== 0)
  const adapters = active.map(({ adapter }) => adapter)
  const merger = await createMerger(base, adapters, options)
  try {
    return await merger.merge(active.map(({ scale }) => scale))
  } finally {
    await merger.release()
  }
}

/**
 * A merger of `adapters` into `base`, the pristine tensors of one network by name. Deltas of
 * another network's tensors are left to its own merger.
 */
export async function createMerger(
  base: ReadonlyMap<string, TensorSlice>,
  adapters: readonly LoraAdapter[],
  { rounding, threads }: MergeOptions,
): Promise<Merger> {
  const targets = listTargets(base, adapters)
  const groups: { targets: readonly Target[]; session: Session }[] = []
  const release = async () => {
    for (const { session } of groups) await session.release()
  }
  try {
    for (const group of groupTargets(targets)) {
      const model = mergeGraph(group, adapters.length, rounding)
      // Weights stay mapped: a widened copy of each would outlive the merge.
      const session = await createSession(model, { threads, widenWeights: 'run' })
      groups.push({ targets: group, session })
    }
  } catch (error) {
    await release()
    throw error
  }

  async function merge(scales: readonly number[]) {
    checkScales(scales, adapters.length)
    const merged = new Map<string, FloatTensor>()
    for (const { targets, session } of groups) {
      const touched = targets.filter(({ deltas }) => deltas.some((_, i) => scales[i] !== 0))
      if (touched.length === 0) continue
      const results = await session.run({
        scales: floatTensor(Float32Array.from(scales), [scales.length]),
      })
      for (const { name } of touched) merged.set(name, results[name] as FloatTensor)
    }
    return merged
  }

  return { merge, release }
}

/** A tensor of the base and what each adapter, by index, adds to it. */
type Target = {
  readonly name: string
  readonly base: TensorSlice
  /** Sparse: an adapter that does not touch the tensor has no entry. */
  readonly deltas: readonly (readonly Delta[])[]
}

function listTargets(base: ReadonlyMap<string, TensorSlice>, adapters: readonly LoraAdapter[]) {
  const names = new Set(adapters.flatMap(({ deltas }) => [...deltas.keys()]))
  return [...names].flatMap((name): Target[] => {
    const slice = base.get(name)
    if (!slice) return []
    const deltas: (readonly Delta[])[] = []
    adapters.forEach((adapter, i) => {
      const own = adapter.deltas.get(name)
      if (own) deltas[i] = own
    })
    return [{ name, base: slice, deltas }]
  })
}

function groupTargets(targets: readonly Target[]): Target[][] {
  const groups: Target[][] = []
  let bytes = Number.POSITIVE_INFINITY
  for (const target of targets) {
    const size = 4 * elementCount(target.base.shape)
    if (bytes + size > maxGroupBytes) {
      groups.push([])
      bytes = 0
    }
    groups.at(-1)!.push(target)
    bytes += size
  }
  return groups
}

function checkScales(scales: readonly number[], count: number) {
  if (scales.length !== count || !scales.every(Number.isFinite))
    throw new RangeError(`Expected ${count} finite LoRA scales but got [${scales}]`)
}

/** scales [adapters] → every target's merged tensor, under its name. */
function mergeGraph(targets: readonly Target[], count: number, rounding: Rounding): Uint8Array {
  const graph = createGraph('merge')
  const scales = graph.input('scales', 'F32', [count])
  const scaleOf = (i: number) => graph.node('Gather', [scales, graph.int64s([i])])
  for (const { name, base, deltas } of targets) {
    const pristine = read(graph, base, 'base')
    let merged = pristine
    deltas.forEach((own, i) => {
      for (const delta of own) {
        const files = `lora${i}`
        merged = addDelta({ graph, files, base, pristine }, merged, delta, scaleOf(i))
      }
    })
    graph.output(name, rounded(graph, merged, rounding), 'F32', base.shape)
  }
  return graph.encode()
}

const float32 = 1
const bfloat16 = 16

const cast = (graph: Graph, x: Value, to: number) => graph.node('Cast', [x], { attributes: { to } })

const rounded = (graph: Graph, x: Value, rounding: Rounding) =>
  rounding === 'bf16' ? cast(graph, cast(graph, x, bfloat16), float32) : x

// Two files may use one name, so the file is part of an initializer's name here.
function read(graph: Graph, slice: TensorSlice, file: string): Value {
  const stored = graph.weight({ ...slice, name: `${file}/${slice.name}` })
  return cast(graph, stored, float32)
}

type Scope = {
  readonly graph: Graph
  /** Which adapter's file the deltas lie in. */
  readonly files: string
  readonly base: TensorSlice
  /** The base tensor as float32. */
  readonly pristine: Value
}

/** sum + scale·Δ; scale is [1]. */
function addDelta(scope: Scope, sum: Value, delta: Delta, scale: Value): Value {
  const { graph } = scope
  if (delta.kind === 'dora') {
    const difference = graph.node('Sub', [doraWeight(scope, delta), scope.pristine])
    return graph.node('Add', [sum, graph.node('Mul', [difference, scale])])
  }
  return addChange(scope, sum, delta, scale)
}

function addChange({ graph, files }: Scope, sum: Value, change: Change, scale: Value): Value {
  const mul = (a: Value, b: Value) => graph.node('Mul', [a, b])
  const add = (a: Value, b: Value) => graph.node('Add', [a, b])
  const load = (slice: TensorSlice) => read(graph, slice, files)
  const product = (factor: Factor) =>
    factor.length === 1 ? load(factor[0]) : graph.node('MatMul', [load(factor[0]), load(factor[1])])
  const strength = mul(scale, graph.floats([change.factor]))
  switch (change.kind) {
    case 'lowRank': {
      // The smaller factor is scaled; one Gemm multiplies and adds.
      const down = mul(load(change.down), strength)
      return graph.node('Gemm', [load(change.up), down, sum])
    }
    case 'loha':
      return add(sum, mul(mul(product(change.first), product(change.second)), strength))
    case 'lokr': {
      const whole = kronecker(graph, product(change.first), product(change.second), change)
      return add(sum, mul(whole, strength))
    }
    case 'full':
      return add(sum, mul(load(change.values), strength))
    default:
      return change satisfies never
  }
}

/** Rows of the Kronecker product: [a, b] ⊗ [c, d] → [a·c, b·d]. */
function kronecker(
  graph: Graph,
  first: Value,
  second: Value,
  change: Extract<Change, { kind: 'lokr' }>,
): Value {
  const { int64s, node } = graph
  const [a, b] = sizeOf(change.first)
  const [c, d] = sizeOf(change.second)
  const blocks = node('Mul', [
    node('Reshape', [first, int64s([a, 1, b, 1])]),
    node('Reshape', [second, int64s([1, c, 1, d])]),
  ])
  const whole = node('Reshape', [blocks, int64s([a * c, b * d])])
  const { begin, end } = change.rows
  return node('Slice', [whole, int64s([begin]), int64s([end]), int64s([0])])
}

const sizeOf = (factor: Factor): readonly [number, number] => [
  factor[0].shape[0]!,
  factor[factor.length - 1]!.shape[1]!,
]

// Keeps 0 / 0 from becoming NaN where a row of the weight is zero.
const tiny = 1e-30

/** magnitude ⊙ V / ‖V‖, where V is the base tensor with all changes at scale 1. */
function doraWeight(scope: Scope, { changes, magnitude, normOver }: Dora): Value {
  const { graph, files, pristine } = scope
  const one = graph.floats([1])
  const direction = changes.reduce((sum, change) => addChange(scope, sum, change, one), pristine)
  const axis = normOver === 'rows' ? 1 : 0
  const norm = graph.node('ReduceL2', [direction, graph.int64s([axis])], {
    attributes: { keepdims: 1 },
  })
  const shape = normOver === 'rows' ? [-1, 1] : [1, -1]
  const lengths = graph.node('Reshape', [read(graph, magnitude, files), graph.int64s(shape)])
  const factors = graph.node('Div', [lengths, graph.node('Max', [norm, graph.floats([tiny])])])
  return graph.node('Mul', [direction, factors])
}
