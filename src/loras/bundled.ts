/** The LoRAs that are part of the package, for the embedded model. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'

/** The path of a bundled LoRA by its name on Replicate; undefined for other names. */
export type FindBundled = (name: string) => string | undefined

/** Finds `owner/name` as `<owner>--<name>.safetensors` in `folder`; nothing without a folder. */
export const findBundledIn =
  (folder: string | undefined): FindBundled =>
  (name) => {
    if (folder === undefined || !/^[\w-][\w.-]*\/[\w-][\w.-]*$/.test(name)) return undefined
    const path = join(folder, `${name.replace('/', '--')}.safetensors`)
    return existsSync(path) ? path : undefined
  }
