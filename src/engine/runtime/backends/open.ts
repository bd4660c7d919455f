/** Opens the backend for a device: ONNX Runtime's own sessions or the native addon's. */

import { type Backend, portableBackend } from './backend.js'
import { cudaLibrary, loadAddon } from './native/addon.js'
import { createFusedBackend } from './native/backend.js'
import { createCudaBackend } from './ort/cuda.js'
import { ortLibrary } from './ort/library.js'

export type Device = 'cpu' | 'cuda'
export type BackendKind = 'ort' | 'native'

export type BackendSettings = {
  /** For how many image sizes the addon replays a step as a CUDA graph on a GPU; 0 by default. */
  readonly cudaGraphs?: number | undefined
  /** Gets a sentence when the device is used in a slower way than it was asked to. */
  readonly onWarning?: (message: string) => void
}

/**
 * The backend of a device. Faults of onnxruntime-node appear with its first session; for the native
 * addon this throws `engine_failed` where it has not been built.
 */
export function openBackend(
  device: Device,
  kind: BackendKind = 'ort',
  settings: BackendSettings = {},
): Backend {
  if (kind === 'native') return openNative(device, settings)
  return device === 'cuda' ? createCudaBackend('flash') : portableBackend
}

function openNative(device: Device, { cudaGraphs = 0, onWarning }: BackendSettings): Backend {
  const addon = loadAddon(ortLibrary())
  if (device === 'cpu')
    return createFusedBackend({
      addon,
      device: new addon.Device(),
      dtype: 'F32',
      attention: 'float32',
    })
  // Engines do not start on a GPU without cuDNN: the CUDA provider needs it for the decoder, too.
  return createFusedBackend({
    addon,
    device: new addon.Device({ ordinal: 0, library: cudaLibrary }),
    dtype: 'BF16',
    attention: 'cudnn',
    captures: cudaGraphs,
    ...(onWarning && { onWarning }),
  })
}
