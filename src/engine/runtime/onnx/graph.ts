/** Builds an ONNX graph node by node. Values are named by the builder; weights keep their names. */

import type { TensorSource } from '../weights/weights.js'
import {
  type Attribute,
  type Domain,
  encodeModel,
  type GraphNode,
  type Initializer,
  type OnnxDType,
  type ValueInfo,
} from './proto.js'

declare const valueBrand: unique symbol
/** The name of a value inside one graph. */
export type Value = string & { readonly [valueBrand]: true }

/** An input that the operator leaves at its default. */
export const absent = '' as Value

export type NodeOptions = {
  readonly attributes?: Readonly<Record<string, Attribute>>
  readonly domain?: Domain
}

export type Graph = {
  readonly input: (name: string, dtype: OnnxDType, dims: readonly (number | string)[]) => Value
  readonly output: (
    name: string,
    value: Value,
    dtype: OnnxDType,
    dims: readonly (number | string)[],
  ) => void
  /** The names of the outputs so far. */
  readonly outputs: () => readonly string[]
  readonly node: (op: string, inputs: readonly Value[], options?: NodeOptions) => Value
  readonly nodes: (
    op: string,
    inputs: readonly Value[],
    count: number,
    options?: NodeOptions,
  ) => Value[]
  /**
   * The rows of all parts, one below the other, in this dtype; they are passed to the session. A
   * second call gives the same value.
   */
  readonly shared: (parts: readonly TensorSource[], dtype: SharedWeight['dtype']) => Value
  /** The weights that `shared` was called for. */
  readonly sharedWeights: () => readonly SharedWeight[]
  /** Every tensor of the graph that is no input. */
  readonly initializers: () => readonly Pick<Initializer, 'name' | 'dtype' | 'dims'>[]
  /** The tensor as stored; a second call gives the same value. */
  readonly weight: (source: TensorSource) => Value
  readonly floats: (values: ArrayLike<number>, dims?: readonly number[]) => Value
  readonly int64s: (values: readonly number[], dims?: readonly number[]) => Value
  /** Names an inner float32 value, which `encode` can make an output. */
  readonly debugOutput: (name: string, value: Value) => void
  /** The model's bytes; `debugOutputs` names inner values to return as well. */
  readonly encode: (debugOutputs?: readonly string[]) => Uint8Array
}

/** A weight that sessions share instead of reading it from a file of their own. */
export type SharedWeight = {
  readonly name: string
  /** Values of F8_E4M3 have a scale per row, which is a value of the graph too: `scaleOf`. */
  readonly dtype: 'F32' | 'BF16' | 'F8_E4M3'
  readonly dims: readonly number[]
  readonly parts: readonly TensorSource[]
}

/** The scales [rows] of a shared F8_E4M3 weight. */
export const scaleOf = (weight: Value) => `${weight}.scale` as Value

// A model's bytes are one protobuf message, which cannot be longer.
const maxInlineBytes = 2 ** 31 - 2 ** 24

export function createGraph(name: string): Graph {
  const nodes: GraphNode[] = []
  const initializers = new Map<string, Initializer>()
  const inputs: ValueInfo[] = []
  const outputs: ValueInfo[] = []
  const debugOutputs = new Map<string, Value>()
  const external = new Map<string, SharedWeight>()

  function many(op: string, operands: readonly Value[], count: number, options: NodeOptions = {}) {
    const { attributes = {}, domain = '' } = options
    const results = Array.from({ length: count }, (_, i) => `${op}_${nodes.length}_${i}` as Value)
    nodes.push({ op, domain, inputs: operands, outputs: results, attributes })
    return results
  }

  function inline(dtype: OnnxDType, values: ArrayBufferView, dims: readonly number[]): Value {
    const bytes = bytesOf(values)
    const key = `${dtype}[${dims}]:${Buffer.from(bytes).toString('base64')}`
    const constant = initializers.get(key)?.name ?? `constant_${initializers.size}`
    initializers.set(key, { name: constant, dtype, dims, source: { kind: 'inline', bytes } })
    return constant as Value
  }

  function weight(tensor: TensorSource): Value {
    const { name, dtype, shape } = tensor
    initializers.set(name, { name, dtype, dims: shape, source: placeOf(tensor) })
    return name as Value
  }

  function shared(parts: readonly TensorSource[], dtype: SharedWeight['dtype']): Value {
    const name = `${parts.map((part) => part.name).join('+')} as ${dtype}` as Value
    const [, ...rest] = parts[0]!.shape
    const dims = [parts.reduce((rows, { shape }) => rows + shape[0]!, 0), ...rest]
    external.set(name, { name, dtype, dims, parts })
    initializers.set(name, { name, dtype, dims, source: { kind: 'external' } })
    const scale = scaleOf(name)
    if (dtype === 'F8_E4M3')
      initializers.set(scale, {
        name: scale,
        dtype: 'F32',
        dims: dims.slice(0, 1),
        source: { kind: 'external' },
      })
    return name
  }

  function rename(value: Value, output: string) {
    nodes.push({ op: 'Identity', domain: '', inputs: [value], outputs: [output], attributes: {} })
  }

  function encode(wanted: readonly string[] = []) {
    const debugNodes = wanted.map((output): GraphNode => {
      const value = debugOutputs.get(output)
      if (!value)
        throw new RangeError(
          `Expected one of the debug outputs ${[...debugOutputs.keys()]} but got ${output}`,
        )
      return { op: 'Identity', domain: '', inputs: [value], outputs: [output], attributes: {} }
    })
    checkInlineBytes(name, initializers.values())
    const debugInfo = wanted.map((name) => ({ name, dtype: 'F32' as const, dims: undefined }))
    return encodeModel({
      name,
      nodes: withoutUnused([...nodes, ...debugNodes], [...outputs.map(nameOf), ...wanted]),
      initializers: [...initializers.values()],
      inputs,
      outputs: [...outputs, ...debugInfo],
    })
  }

  return {
    input(inputName, dtype, dims) {
      inputs.push({ name: inputName, dtype, dims })
      return inputName as Value
    },
    output(outputName, value, dtype, dims) {
      rename(value, outputName)
      outputs.push({ name: outputName, dtype, dims })
    },
    outputs: () => outputs.map(nameOf),
    node: (op, operands, options) => many(op, operands, 1, options)[0]!,
    nodes: many,
    weight,
    shared,
    sharedWeights: () => [...external.values()],
    initializers: () => [...initializers.values()],
    floats: (values, dims = [values.length]) => inline('F32', Float32Array.from(values), dims),
    int64s: (values, dims = [values.length]) =>
      inline('I64', BigInt64Array.from(values, BigInt), dims),
    debugOutput(outputName, value) {
      debugOutputs.set(outputName, value)
    },
    encode,
  }
}

const nameOf = ({ name }: ValueInfo) => name

/** The nodes on which the outputs depend; a node comes after those it reads. */
function withoutUnused(nodes: readonly GraphNode[], outputs: readonly string[]): GraphNode[] {
  const used = new Set(outputs)
  const kept = nodes.toReversed().filter((node) => {
    const isUsed = node.outputs.some((output) => used.has(output))
    if (isUsed) for (const input of node.inputs) used.add(input)
    return isUsed
  })
  return kept.reverse()
}

function placeOf(tensor: TensorSource): Initializer['source'] {
  if ('values' in tensor) return { kind: 'inline', bytes: bytesOf(tensor.values) }
  const { file, offset, byteLength } = tensor
  return { kind: 'file', file, offset, byteLength }
}

const bytesOf = ({ buffer, byteOffset, byteLength }: ArrayBufferView) =>
  new Uint8Array(buffer, byteOffset, byteLength)

function checkInlineBytes(name: string, initializers: Iterable<Initializer>) {
  let total = 0
  for (const { source } of initializers) total += source.kind === 'inline' ? source.bytes.length : 0
  if (total > maxInlineBytes)
    throw new RangeError(
      `Expected at most ${maxInlineBytes} bytes of merged weights in graph ${name} ` +
        `but got ${total}`,
    )
}
