import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { onTestFinished } from 'vitest'

/** A folder of its own for a test, which goes with it. */
export function temporaryData(): string {
  const folder = mkdtempSync(join(tmpdir(), 'fluxd-data-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}
