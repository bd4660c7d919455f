/**
 * The environment of an engine's process, which decodes files of strangers and therefore gets no
 * secrets.
 */

// A proxy's URL may hold credentials, and an engine connects to nothing.
const secretName = /^FLUXD_|^HF_|TOKEN|SECRET|PASSWORD|CREDENTIAL|_KEY(_FILE)?$|_PROXY$/i

/**
 * This process's variables without settings and secrets. ONNX Runtime's telemetry is off; `gpu` is
 * the only one that CUDA shows, by its index.
 */
export function engineEnvironment(
  gpu: number | undefined,
  variables: Readonly<Record<string, string | undefined>> = process.env,
): Record<string, string> {
  const harmless = Object.entries(variables).filter(([name]) => !secretName.test(name))
  return {
    ...Object.fromEntries(harmless.map(([name, value]) => [name, value ?? ''])),
    ORT_DISABLE_TELEMETRY: '1',
    ...(gpu !== undefined && { CUDA_VISIBLE_DEVICES: visibleDevice(gpu, variables) }),
  }
}

/** `gpu` counts the GPUs that the operator's own CUDA_VISIBLE_DEVICES shows. */
const visibleDevice = (
  gpu: number,
  { CUDA_VISIBLE_DEVICES: shown }: Readonly<Record<string, string | undefined>>,
): string => (shown ? (shown.split(',')[gpu] ?? String(gpu)) : String(gpu))
