/** What a block becomes in the fused dialect; test/native/addon shows that it computes the same. */
import protobuf from 'protobufjs'
import { expect, test } from 'vitest'
import { openTransformer } from '../../../../src/engine/checkpoint/checkpoint.js'
import { buildTransformerGraphs } from '../../../../src/engine/models/transformer.js'
import { createGraph } from '../../../../src/engine/runtime/onnx/graph.js'
import { type FusedOptions, fusedOps } from '../../../../src/engine/runtime/ops/fused.js'
import { fixturePath } from '../../../goldens.js'

const { root } = protobuf.parse(
  `
  syntax = "proto3";
  message Node { repeated string input = 1; string op_type = 4; string domain = 7; }
  message Tensor { string name = 8; }
  message Graph { repeated Node node = 1; repeated Tensor initializer = 5; }
  message Model { Graph graph = 7; }
`,
  { keepCase: true },
)

type Node = { readonly op_type: string; readonly domain: string; readonly input: string[] }

/** The nodes of the step graph of tiny-dev, which has two double and three single blocks. */
function stepNodes(options: FusedOptions): Node[] {
  const component = openTransformer(fixturePath('tiny-dev/transformer'))
  const { step } = buildTransformerGraphs(component, options.precision, {
    ops: (graph, precision = 'bf16') => fusedOps(graph, { ...options, precision }),
    imageOps: () => expect.fail('Expected no image'),
    createSessions: () => Promise.reject(new Error('Expected no session')),
    weightBytes: () => 0,
  })
  const model = root.lookupType('Model').decode(step.encode()).toJSON()
  return model['graph'].node
}

function count(nodes: readonly Node[]) {
  const counts: Record<string, number> = {}
  for (const { op_type, domain = '' } of nodes) {
    const name = domain === 'fluxd' ? `fluxd.${op_type}` : op_type
    counts[name] = (counts[name] ?? 0) + 1
  }
  return counts
}

const [double, single] = [2, 3]
// Four norms, a qkv and an attention for two streams; a norm, a qkv and an attention for one.
const norms = 4 * double + single
const blocks = double + single

/** Around the attention of a block and at the border of the graph; no arithmetic. */
const plumbing = {
  Unsqueeze: 3 * blocks,
  Squeeze: blocks,
  // Of [txt, img].
  Concat: 1,
  // The attention of double blocks, and the image's rows at the end, with their lengths.
  Slice: 2 * double + 1,
  Shape: double + 1,
  // The modulation of all blocks.
  Split: 1,
  // Into bfloat16: img, txt. Into float32: the velocity.
  Cast: 3,
  Identity: 1,
}

test('a block in bf16 is norms, products, one rotation and one attention', () => {
  const nodes = stepNodes({ dtype: 'BF16', precision: 'bf16', attention: 'flash' })
  expect(count(nodes)).toEqual({
    ...plumbing,
    'fluxd.ModulatedNorm': norms + 1,
    // Double blocks: qkv, proj and two of the feed-forward layer per stream. Single: qkv, proj_mlp,
    // proj_out. And x_embedder and proj_out.
    'fluxd.Linear': 8 * double + 3 * single + 2,
    'fluxd.QkNormRope': blocks,
    Attention: blocks,
  })
  const isBehindAttention = ({ op_type, input }: Node) => op_type === 'Linear' && input.length === 6
  expect(nodes.filter(isBehindAttention)).toHaveLength(single)
})

test('in fp8 norms quantise, and only the inputs of other products need a pass of their own', () => {
  const nodes = stepNodes({ dtype: 'BF16', precision: 'fp8', attention: 'cudnn' })
  expect(count(nodes)).toEqual({
    ...plumbing,
    'fluxd.ModulatedNorm': 1,
    'fluxd.ModulatedNormFp8': norms,
    'fluxd.Linear': 2,
    'fluxd.Fp8Linear': 8 * double + 3 * single,
    // Attention and GELU of both streams; attention beside GELU in single blocks.
    'fluxd.QuantizeRows': 4 * double + single,
    'fluxd.QkNormRope': blocks,
    MultiHeadAttention: blocks,
  })
  const isOfTwo = ({ op_type, input }: Node) => op_type === 'QuantizeRows' && input.length === 2
  expect(nodes.filter(isOfTwo)).toHaveLength(single)
})

test('layers side by side have a bias in all or none', () => {
  const graph = createGraph('linear')
  const ops = fusedOps(graph, { dtype: 'F32', precision: 'bf16', attention: 'float32' })
  const weight = (name: string) =>
    ({ name, dtype: 'F32', shape: [2, 2], values: new Float32Array(4) }) as const
  const bias = { ...weight('bias'), shape: [2], values: new Float32Array(2) }
  const x = graph.input('x', 'F32', ['n', 2])
  const stream = {
    x,
    q: { weight: weight('q'), bias },
    k: { weight: weight('k') },
    v: { weight: weight('v') },
    normQ: bias,
    normK: bias,
  }
  expect(() => ops.rotatedQkv([stream], { cos: x, sin: x }, 1)).toThrow(
    'Expected a bias in all or none of q,k,v',
  )
})
