/** Shows downloads on a terminal as a bar for each file under way and one for all, elsewhere as lines. */
import { MultiBar, Presets, type SingleBar } from 'cli-progress'
import type { PullProgress } from '../net/huggingFace/pull.js'
import type { RepositoryFile } from '../net/huggingFace/repository.js'

export type DownloadView = PullProgress & { readonly stop: () => void }

/** A view of the files that are to come. */
export const showDownloads = (
  files: readonly RepositoryFile[],
  stream: NodeJS.WriteStream,
): DownloadView => (stream.isTTY ? showBars(files, stream) : showLines(stream))

const format = '{bar} {percentage} % · {amount} · {eta_formatted} · {name}'

function showBars(files: readonly RepositoryFile[], stream: NodeJS.WriteStream): DownloadView {
  const options = { format, stream, hideCursor: true, clearOnComplete: true, barsize: 24 }
  const bars = new MultiBar(options, Presets.shades_classic)
  const size = files.reduce((sum, { bytes }) => sum + bytes, 0)
  const total = bars.create(size, 0, { name: 'total', amount: showBytes(size) })
  const running = new Map<RepositoryFile, SingleBar>()
  const known = new Map<RepositoryFile, number>()

  function update(file: RepositoryFile, done: number) {
    total.increment(done - (known.get(file) ?? 0))
    known.set(file, done)
    running.get(file)?.update(done)
  }

  return {
    start(file) {
      const payload = { name: file.path, amount: showBytes(file.bytes) }
      running.set(file, bars.create(file.bytes, 0, payload))
    },
    update,
    finish(file) {
      update(file, file.bytes)
      const bar = running.get(file)
      if (bar) bars.remove(bar)
      running.delete(file)
    },
    stop: () => bars.stop(),
  }
}

const showLines = (stream: NodeJS.WritableStream): DownloadView => ({
  start: () => {},
  update: () => {},
  finish: ({ path, bytes }) => void stream.write(`${path}: ${showBytes(bytes)}\n`),
  stop: () => {},
})

/** `9.9 GB`; decimal, as the hub counts. */
export function showBytes(bytes: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB']
  const power = Math.min(Math.max(Math.floor(Math.log10(bytes || 1) / 3), 0), units.length - 1)
  return `${(bytes / 1000 ** power).toFixed(power === 0 ? 0 : 1)} ${units[power]}`
}
