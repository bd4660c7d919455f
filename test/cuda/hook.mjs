/** Lets every process that imports it take the copy of onnxruntime-node that `run` prepared. */
import Module, { register } from 'node:module'

const copy = `${process.env['FLUXD_CUDA_STUBS']}/node_modules/onnxruntime-node/`
const toCopy = (path) => path.replace(/^.*\/node_modules\/onnxruntime-node\//, copy)

register(new URL('resolve.mjs', import.meta.url))
const resolve = Module._resolveFilename
Module._resolveFilename = (...request) => toCopy(resolve(...request))
