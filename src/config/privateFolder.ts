/**
 * The data folder: prompts, images, secrets of webhooks and references with tokens lie in it, so
 * that other users of the machine may not read it.
 */
import { accessSync, chmodSync, constants, existsSync, mkdirSync, statSync } from 'node:fs'
import { dirname } from 'node:path'
import { codeOf, hasCode, invalidConfig } from '../errors.js'

const ownerOnly = 0o700

/**
 * Makes `folder`, if it is missing, and takes the rights of other users away from it. Throws
 * `config_invalid` when it cannot be made or written to.
 */
export function makePrivate(folder: string): void {
  try {
    makeMissing(folder)
    removeRights(folder)
    accessSync(folder, constants.W_OK)
  } catch (error) {
    throw invalidConfig(
      `Expected ${folder} to be a folder that can be written into (${codeOf(error)})`,
    )
  }
}

/** Not `recursive`: Node then repeats a mkdir for ever where a file system has no new folders. */
function makeMissing(folder: string): void {
  if (existsSync(folder)) return
  makeMissing(dirname(folder))
  try {
    mkdirSync(folder, { mode: ownerOnly })
  } catch (error) {
    // Another process may have made it meanwhile.
    if (!hasCode(error, 'EEXIST')) throw error
  }
}

function removeRights(folder: string): void {
  const { mode } = statSync(folder)
  if ((mode & 0o077) === 0) return
  try {
    chmodSync(folder, mode & ownerOnly)
  } catch (error) {
    // A mounted volume may belong to another user, whose choice its mode is then.
    if (!hasCode(error, 'EPERM', 'EROFS', 'ENOTSUP')) throw error
  }
}
