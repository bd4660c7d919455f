/** A data folder on a real disk of 100 MB that runs full: needs the right to mount one. */
import { execFileSync } from 'node:child_process'
import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, onTestFinished, test, vi } from 'vitest'
import { createGate } from '../gate.js'
import { openPredictions, request } from '../server/predictions/testPredictions.js'
import { temporaryData } from '../temporaryData.js'

function mountSmallDisk(): string | undefined {
  const folder = temporaryData()
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=100m', 'tmpfs', folder], { stdio: 'ignore' })
  } catch {
    return undefined
  }
  onTestFinished(() => void execFileSync('umount', ['-l', folder]))
  return folder
}

/** Leaves not a byte. */
function fill(folder: string): string {
  const path = join(folder, 'filler')
  for (let size = 2 ** 20; size > 0; size = Math.floor(size / 2)) {
    try {
      for (;;) writeFileSync(path, Buffer.alloc(size), { flag: 'a' })
    } catch {
      // The next smaller piece may fit.
    }
  }
  return path
}

test('a disk that is full refuses what is new, and what was promised is made when there is room', async (context) => {
  const folder = mountSmallDisk()
  if (folder === undefined) return context.skip('mounting a disk is not permitted here')
  const gate = createGate()
  const { predictions, engine, files } = await openPredictions({
    folder,
    fake: { gate: gate.promise },
  })
  const promised = await Promise.all([1, 2, 3].map(() => predictions.create(request())))
  await vi.waitFor(() => expect(engine.plans).toHaveLength(1))
  const filler = fill(folder)

  // What is known of the free room is a second old at most.
  await new Promise((resolve) => setTimeout(resolve, 1100))
  await expect(predictions.create(request())).rejects.toMatchObject({
    code: 'storage_full',
    status: 507,
    message: expect.stringMatching(/^Expected room in .* but the disk is full$/),
  })
  expect(await predictions.refusal()).toMatch(/but the disk is full$/)
  gate.open()
  await new Promise((resolve) => setTimeout(resolve, 500))
  for (const { id } of promised)
    expect(['starting', 'processing']).toContain((await predictions.get(id))?.status)

  rmSync(filler)
  for (const { id } of promised) {
    const { status, output } = await predictions.waitUntilTerminal(id)
    expect(status).toBe('succeeded')
    expect((await files.read(output![0]!.fileId)).length).toBe(output![0]!.size)
  }
  await predictions.create(request())
})
