import { existsSync } from 'node:fs'
import { join } from 'node:path'

/** The path of a LoRA that comes with fluxd, by its name on Replicate; undefined for other names. */
export type FindBundled = (name: string) => string | undefined

/** Finds `owner/name` as `<owner>--<name>.safetensors` in `folder`; without a folder, nothing. */
export const findBundledIn =
  (folder: string | undefined): FindBundled =>
  (name) => {
    if (folder === undefined || !/^[\w-][\w.-]*\/[\w-][\w.-]*$/.test(name)) return undefined
    const path = join(folder, `${name.replace('/', '--')}.safetensors`)
    return existsSync(path) ? path : undefined
  }
