/**
 * The part of onnx.proto3 that our graphs use, encoded by protobufjs. Field numbers and enum
 * values are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3 (IR version 11).
 */
import protobuf from 'protobufjs'
import type { StoredDType } from '../../../safetensors/tensor.js'

const { root } = protobuf.parse(
  `
  syntax = "proto3";
  message StringStringEntryProto { string key = 1; string value = 2; }
  message TensorProto {
    repeated int64 dims = 1;
    int32 data_type = 2;
    string name = 8;
    bytes raw_data = 9;
    repeated StringStringEntryProto external_data = 13;
    int32 data_location = 14;
  }
  message AttributeProto {
    string name = 1;
    optional float f = 2;
    optional int64 i = 3;
    optional bytes s = 4;
    repeated float floats = 7;
    repeated int64 ints = 8;
    int32 type = 20;
  }
  message NodeProto {
    repeated string input = 1;
    repeated string output = 2;
    string name = 3;
    string op_type = 4;
    repeated AttributeProto attribute = 5;
    string domain = 7;
  }
  message Dimension { optional int64 dim_value = 1; optional string dim_param = 2; }
  message TensorShapeProto { repeated Dimension dim = 1; }
  message TensorType { int32 elem_type = 1; TensorShapeProto shape = 2; }
  message TypeProto { TensorType tensor_type = 1; }
  message ValueInfoProto { string name = 1; TypeProto type = 2; }
  message GraphProto {
    repeated NodeProto node = 1;
    string name = 2;
    repeated TensorProto initializer = 5;
    repeated ValueInfoProto input = 11;
    repeated ValueInfoProto output = 12;
  }
  message OperatorSetIdProto { string domain = 1; int64 version = 2; }
  message ModelProto {
    int64 ir_version = 1;
    string producer_name = 2;
    GraphProto graph = 7;
    repeated OperatorSetIdProto opset_import = 8;
  }
`,
  { keepCase: true },
)

const ModelProto = root.lookupType('ModelProto')

/** TensorProto.DataType of every dtype that may stand in a graph. */
export const onnxType = {
  F32: 1,
  U8: 2,
  I8: 3,
  U16: 4,
  I16: 5,
  I32: 6,
  I64: 7,
  BOOL: 9,
  F16: 10,
  F64: 11,
  U32: 12,
  U64: 13,
  BF16: 16,
  C64: 14,
  F8_E4M3: 17,
  F8_E4M3FNUZ: 18,
  F8_E5M2: 19,
  F8_E5M2FNUZ: 20,
  F4: 23,
  F8_E8M0: 24,
  // ONNX has no floats of 6 bits: 0 is its "undefined".
  F6_E2M3: 0,
  F6_E3M2: 0,
} as const satisfies Record<StoredDType, number>

export type OnnxDType = keyof typeof onnxType

/** Whole numbers become ints; `{ float }` marks what must be a float. */
export type Attribute = number | readonly number[] | string | { readonly float: number }

export type GraphNode = {
  readonly op: string
  readonly domain: Domain
  readonly inputs: readonly string[]
  readonly outputs: readonly string[]
  readonly attributes: Readonly<Record<string, Attribute>>
}

/** A dim is a length or the name of a dynamic axis. */
export type ValueInfo = {
  readonly name: string
  readonly dtype: OnnxDType
  /** Left to shape inference where undefined. */
  readonly dims: readonly (number | string)[] | undefined
}

export type Initializer = {
  readonly name: string
  readonly dtype: OnnxDType
  readonly dims: readonly number[]
  readonly source:
    | { readonly kind: 'inline'; readonly bytes: Uint8Array }
    | {
        readonly kind: 'file'
        readonly file: string
        readonly offset: number
        readonly byteLength: number
      }
    /** The values are passed to the session, under this name. */
    | { readonly kind: 'external' }
}

type FileSource = Extract<Initializer['source'], { kind: 'file' }>

export type OnnxGraph = {
  readonly name: string
  readonly nodes: readonly GraphNode[]
  readonly initializers: readonly Initializer[]
  readonly inputs: readonly ValueInfo[]
  readonly outputs: readonly ValueInfo[]
}

// ONNX's own may be a newer one, where an operator needs it.
const opsets = { '': 20, 'com.microsoft': 1, fluxd: 1 } as const

export type Domain = keyof typeof opsets

/** Operators that are newer than the opset of most graphs, with theirs. */
const introducedIn: Readonly<Record<string, number>> = { Attention: 23 }

/** The bytes of an ONNX model; external initializers name their file without the leading slash. */
export function encodeModel(graph: OnnxGraph): Uint8Array {
  const message = ModelProto.fromObject({
    ir_version: 10,
    producer_name: 'fluxd',
    graph: {
      name: graph.name,
      node: graph.nodes.map(nodeMessage),
      initializer: graph.initializers.map(initializerMessage),
      input: graph.inputs.map(valueMessage),
      output: graph.outputs.map(valueMessage),
    },
    opset_import: usedDomains(graph).map((domain) => ({
      domain,
      version: domain === '' ? oldestOpset(graph) : opsets[domain],
    })),
  })
  return ModelProto.encode(message).finish()
}

// Only our addon registers the domain `fluxd`: a model without its operators must not import it.
const usedDomains = ({ nodes }: OnnxGraph): Domain[] => [
  ...new Set(['' as const, ...nodes.map(({ domain }) => domain)]),
]

// The oldest that has every operator: the CUDA provider lacks some kernels of newer ones.
const oldestOpset = ({ nodes }: OnnxGraph) =>
  Math.max(
    opsets[''],
    ...nodes.map(({ op, domain }) => (domain === '' ? (introducedIn[op] ?? 0) : 0)),
  )

const nodeMessage = (node: GraphNode) => ({
  input: node.inputs,
  output: node.outputs,
  name: node.outputs[0],
  op_type: node.op,
  domain: node.domain,
  attribute: Object.entries(node.attributes).map(([name, value]) => ({
    name,
    ...attributeMessage(value),
  })),
})

// AttributeProto.AttributeType: FLOAT 1, INT 2, STRING 3, INTS 7.
function attributeMessage(value: Attribute) {
  if (typeof value === 'number') return { i: value, type: 2 }
  if (typeof value === 'string') return { s: Buffer.from(value), type: 3 }
  if ('float' in value) return { f: value.float, type: 1 }
  return { ints: value, type: 7 }
}

function initializerMessage({ name, dtype, dims, source }: Initializer) {
  const head = { name, dims, data_type: onnxType[dtype] }
  if (source.kind === 'inline') return { ...head, raw_data: source.bytes }
  const entries = source.kind === 'external' ? nowhere : locationOf(source)
  const external_data = Object.entries(entries).map(([key, value]) => ({ key, value }))
  return { ...head, external_data, data_location: 1 }
}

/** The session configuration for `encodeModel`'s bytes: paths start at the root. */
export const modelConfig = { 'session.model_external_initializers_file_folder_path': '/' } as const

// ONNX Runtime checks that a file exists even where it never reads it.
const nowhere = { location: 'dev/null' }

const locationOf = ({ file, offset, byteLength }: FileSource) => ({
  location: file.replace(/^\//, ''),
  offset: String(offset),
  length: String(byteLength),
})

const valueMessage = ({ name, dtype, dims }: ValueInfo) => ({
  name,
  type: { tensor_type: { elem_type: onnxType[dtype], ...(dims && { shape: shapeMessage(dims) }) } },
})

const shapeMessage = (dims: readonly (number | string)[]) => ({
  dim: dims.map((dim) => (typeof dim === 'number' ? { dim_value: dim } : { dim_param: dim })),
})
