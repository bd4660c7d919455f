import { accessSync, constants, mkdirSync } from 'node:fs'
import { codeOf, invalidConfig } from '../errors.js'

/** Makes `folder` if it is not there. Throws a sentence where nothing can be written. */
export function makeWritable(folder: string): void {
  try {
    mkdirSync(folder, { recursive: true })
    accessSync(folder, constants.W_OK)
  } catch (cause) {
    throw invalidConfig(
      `Expected ${folder} to be a folder that can be written into (${codeOf(cause)})`,
    )
  }
}
