/** What the networks run on, and the dialect for it. */

import { type Backend, portableBackend } from './backend.js'
import { cudaLibrary, loadAddon } from './native/addon.js'
import { createFusedBackend } from './native/backend.js'
import { createCudaBackend } from './ort/cuda.js'
import { ortLibrary } from './ort/library.js'

export type Device = 'cpu' | 'cuda'
export type BackendKind = 'ort' | 'native'

/**
 * The backend of a device. onnxruntime-node tells with the first session what is wrong with it; the
 * native addon throws `engine_failed` where it has not been built. `cudaGraphs` is for how many sizes
 * of pictures the addon replays a step on a GPU.
 */
export function openBackend(device: Device, kind: BackendKind = 'ort', cudaGraphs = 0): Backend {
  if (kind === 'native') return openNative(device, cudaGraphs)
  return device === 'cuda' ? createCudaBackend('flash') : portableBackend
}

function openNative(device: Device, captures: number): Backend {
  const addon = loadAddon(ortLibrary())
  if (device === 'cpu')
    return createFusedBackend({
      ...{ addon, device: new addon.Device() },
      ...{ dtype: 'F32', attention: 'float32' },
    })
  // Engines do not start on a GPU without cuDNN: the CUDA provider needs it for the decoder, too.
  return createFusedBackend({
    ...{ addon, device: new addon.Device({ ordinal: 0, library: cudaLibrary }) },
    ...{ dtype: 'BF16', attention: 'cudnn', captures },
  })
}
