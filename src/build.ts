/** The versions of this package and of ONNX Runtime. */
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'

export type Build = { readonly version: string; readonly ort: string }

export function readBuild(): Build {
  const require = createRequire(import.meta.url)
  return {
    version: readVersion(new URL('../package.json', import.meta.url)),
    ort: readVersion(require.resolve('onnxruntime-node/package.json')),
  }
}

const readVersion = (manifest: string | URL) =>
  (JSON.parse(readFileSync(manifest, 'utf8')) as { version: string }).version
