/**
 * Where onnxruntime-node keeps its native ONNX Runtime, found without loading it: the addon opens
 * the same library, and doctor looks at its folder on machines where it cannot be loaded.
 */
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'

/** The folder of the ONNX Runtime for this platform, with the providers beside the library. */
export function ortFolder(): string {
  const manifest = createRequire(import.meta.url).resolve('onnxruntime-node/package.json')
  return join(dirname(manifest), 'bin/napi-v6', process.platform, process.arch)
}

/** The path of the ONNX Runtime that sessions use. */
export const ortLibrary = (): string => join(ortFolder(), 'libonnxruntime.so.1')
