/** Dialect `cuda` in sessions of onnxruntime-node with its CUDA provider. */

import { type AttentionKernel, cudaOps } from '../../ops/cuda.js'
import { imageOps } from '../../ops/vae.js'
import { type Backend, copiedBytes, forEachModel } from '../backend.js'
import { createSession } from './session.js'

/** onnxruntime-node on the GPU, in bfloat16. */
export const createCudaBackend = (attention: AttentionKernel): Backend => ({
  weightBytes: copiedBytes,
  ops: (graph, precision = 'bf16') => cudaOps(graph, { precision, attention, dtype: 'BF16' }),
  imageOps: (graph, dtype) => imageOps(graph, { dtype, groupNorm: 'chain' }),
  createSessions: (models, options) =>
    forEachModel(models, ({ graph, debugOutputs }) =>
      createSession(graph.encode(debugOutputs), { ...options, device: 'cuda' }),
    ),
})
