/** Catalog folders and checkpoints for tests. */
import { cpSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { onTestFinished } from 'vitest'
import { temporaryFolder } from '../weightFiles.js'

export const models = join(import.meta.dirname, '../../models')

export const checkpoints = { dev: join(models, 'tiny/dev'), schnell: join(models, 'tiny/schnell') }

export function makeFolder(): string {
  const folder = temporaryFolder()
  onTestFinished(() => rmSync(folder, { recursive: true }))
  return folder
}

/** An empty folder of the user's beside the bundled one. */
export const makeFolders = () => ({
  bundled: join(models, 'catalog'),
  own: join(makeFolder(), 'own'),
})

/** Writes `name` (`owner/name.json`) into a folder. */
export function writeInto(folder: string, name: string, content: unknown): string {
  const file = join(folder, name)
  mkdirSync(dirname(file), { recursive: true })
  writeFileSync(file, typeof content === 'string' ? content : JSON.stringify(content))
  return file
}

/** A copy of the embedded dev checkpoint, to be changed. */
export function copyCheckpoint(): string {
  const folder = join(makeFolder(), 'dev')
  cpSync(checkpoints.dev, folder, { recursive: true })
  return folder
}
