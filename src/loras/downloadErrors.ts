/** Errors of LoRA downloads, in the words of the reference implementation (cog-flux weights.py). */

const prefixes = {
  civitai: 'Failed to download safetensors file',
  file: 'Failed to download safetensors file',
  tarball: 'Failed to download tarball',
} as const

/** What was requested: a file of CivitAI, any other file, or a tar. */
export type DownloadKind = keyof typeof prefixes

/** The sentence for an HTTP status other than success. */
export function explainStatus(kind: DownloadKind, status: number): string {
  if (status === 401)
    return (
      'Authorization to download weights failed. Please check to see if an API key is needed and ' +
      'if so pass in with the URL.'
    )
  if (status === 404 && kind === 'civitai')
    return (
      'Model not found on CivitAI at that URL. Double check the CivitAI model ID; the id on the ' +
      'download link can be different than the id to browse to the model page.'
    )
  if (status === 404) return 'Weights not found at the supplied URL. Please check the URL.'
  return explainFailure(kind, `the server answered with status ${status}`)
}

/** The sentence for every other failure. */
export const explainFailure = (kind: DownloadKind, cause: string) => `${prefixes[kind]}: ${cause}`
