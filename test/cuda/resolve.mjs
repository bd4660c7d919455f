/** Module hook of Node: onnxruntime-node is the copy that `run` prepared. */
import { pathToFileURL } from 'node:url'

const copy = pathToFileURL(`${process.env['FLUXD_CUDA_STUBS']}/node_modules/onnxruntime-node/`).href

export async function resolve(specifier, context, next) {
  const resolved = await next(specifier, context)
  return { ...resolved, url: resolved.url.replace(/^.*\/node_modules\/onnxruntime-node\//, copy) }
}
