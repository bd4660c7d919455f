/** The addon over the ONNX Runtime of onnxruntime-node, on the CPU. */
import { loadAddon } from '../../../src/engine/runtime/backends/native/addon.js'
import { createFusedBackend } from '../../../src/engine/runtime/backends/native/backend.js'
import { ortLibrary } from '../../../src/engine/runtime/backends/ort/library.js'

export const addon = loadAddon(ortLibrary())
export const device = new addon.Device()

/** The fused dialect through the CPU twins. */
export const fusedBackend = (dtype: 'F32' | 'BF16') =>
  createFusedBackend({ addon, device, dtype, attention: 'float32' })
