/** Finds NaN and infinity in a LoRA's tensors, with ONNX Runtime's threads. */
import { invalidLora } from '../../../errors.js'
import type { TensorSlice } from '../../../safetensors/read.js'
import { createSession } from '../../runtime/backends/ort/session.js'
import { createGraph } from '../../runtime/onnx/graph.js'
import { groupBySize, maxBytesAtOnce } from '../merge/chunks.js'
import { deltaTensors, type LoraAdapter } from './adapter.js'

/** Throws `lora_invalid` naming the first tensor that holds a NaN or an infinity. */
export async function checkFinite(adapter: LoraAdapter, threads: number): Promise<void> {
  for (const group of groupBySize(
    adapterTensors(adapter),
    ({ byteLength }) => byteLength,
    maxBytesAtOnce,
  )) {
    const bad = await findBad(group, threads)
    if (bad)
      throw invalidLora(
        `${adapter.source}: expected finite values but ${bad.name} holds NaN or Inf`,
      )
  }
}

async function findBad(tensors: readonly TensorSlice[], threads: number) {
  const session = await createSession(sumsGraph(tensors), { threads, widenWeights: 'run' })
  const { sums } = await session.run({}).finally(() => session.release())
  return tensors.find((_, i) => sums!.data[i] !== 0)
}

// A fused tensor appears once for each of its row ranges.
const adapterTensors = ({ deltas }: LoraAdapter): readonly TensorSlice[] => [
  ...new Map(
    [...deltas.values()]
      .flat()
      .flatMap(deltaTensors)
      .map((slice) => [slice.name, slice]),
  ).values(),
]

/** sums [tensors]: 0·x summed over each tensor, which is 0 unless a value is not finite. */
function sumsGraph(tensors: readonly TensorSlice[]): Uint8Array {
  const graph = createGraph('finite')
  const zero = graph.floats([0], [])
  const sums = tensors.map((slice) => {
    const values = graph.node('Cast', [graph.weight(slice)], { attributes: { to: 1 } })
    const sum = graph.node('ReduceSum', [graph.node('Mul', [values, zero])], {
      attributes: { keepdims: 0 },
    })
    return graph.node('Reshape', [sum, graph.int64s([1])])
  })
  graph.output('sums', graph.node('Concat', sums, { attributes: { axis: 0 } }), 'F32', [
    tensors.length,
  ])
  return graph.encode()
}
