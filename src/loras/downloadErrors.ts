/** What a prediction is told when a server does not give a file out: the reference's words. */

const prefixes = {
  civitai: 'Failed to download safetensors file',
  file: 'Failed to download safetensors file',
  tarball: 'Failed to download tarball',
} as const

/** What was asked for: a file of CivitAI's, any other file, or a tar. */
export type DownloadKind = keyof typeof prefixes

/** The sentence for an HTTP status that is no success. */
export function explainStatus(kind: DownloadKind, status: number): string {
  if (status === 401)
    return 'Authorization to download weights failed. Please check to see if an API key is needed and if so pass in with the URL.'
  if (status === 404 && kind === 'civitai')
    return 'Model not found on CivitAI at that URL. Double check the CivitAI model ID; the id on the download link can be different than the id to browse to the model page.'
  if (status === 404) return 'Weights not found at the supplied URL. Please check the URL.'
  return explainFailure(kind, `the server answered with status ${status}`)
}

/** The sentence for every other way to fail. */
export const explainFailure = (kind: DownloadKind, cause: string) => `${prefixes[kind]}: ${cause}`
