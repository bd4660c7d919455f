/**
 * Progress on a terminal: steps of a generation, one download, the files of a pull. Where the
 * stream is no terminal, plain lines take the place of bars.
 */
import { MultiBar, Presets, SingleBar } from 'cli-progress'
import type { PullProgress } from '../net/huggingFace/pull.js'
import type { RepositoryFile } from '../net/huggingFace/repository.js'

export type StepProgress = {
  readonly update: (done: number) => void
  readonly stop: () => void
}

export type DownloadProgress = {
  /** `total` is undefined for a server that does not send the length. */
  readonly update: (done: number, total: number | undefined) => void
  readonly note: (line: string) => void
  readonly stop: () => void
}

export type PullView = PullProgress & { readonly stop: () => void }

const downloadFormat = '{bar} {percentage} % · {amount} · {eta_formatted} · {name}'
const stepFormat = '{bar} step {value}/{total} · {duration_formatted}'

/** Shows how many of `total` steps are done. */
export const showSteps = (total: number, stream: NodeJS.WriteStream): StepProgress =>
  stream.isTTY ? showStepBar(total, stream) : showStepLines(total, stream)

/** Shows the download of `name`. */
export const showDownload = (name: string, stream: NodeJS.WriteStream): DownloadProgress =>
  stream.isTTY ? showDownloadBar(name, stream) : showNotes(stream)

/** Shows the files of a pull: a bar for each one under way and one for all of them. */
export const showPull = (files: readonly RepositoryFile[], stream: NodeJS.WriteStream): PullView =>
  stream.isTTY ? showPullBars(files, stream) : showPullLines(stream)

/** `9.9 GB`; decimal units, as Hugging Face counts. */
export function showBytes(bytes: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB']
  const power = Math.min(Math.max(Math.floor(Math.log10(bytes || 1) / 3), 0), units.length - 1)
  return `${(bytes / 1000 ** power).toFixed(power === 0 ? 0 : 1)} ${units[power]}`
}

const nothing = () => {}

function showStepBar(total: number, stream: NodeJS.WriteStream): StepProgress {
  const bar = new SingleBar(
    { format: stepFormat, stream, hideCursor: true },
    Presets.shades_classic,
  )
  bar.start(total, 0)
  return { update: (done) => bar.update(done), stop: () => bar.stop() }
}

const showStepLines = (total: number, stream: NodeJS.WritableStream): StepProgress => ({
  update(done) {
    stream.write(`step ${done}/${total}\n`)
  },
  stop: nothing,
})

function showDownloadBar(name: string, stream: NodeJS.WriteStream): DownloadProgress {
  const options = { format: downloadFormat, stream, hideCursor: true }
  const bar = new SingleBar(options, Presets.shades_classic)
  return {
    update(done, total) {
      // Without a length the bar is always full and only the amount grows.
      const end = total ?? done
      const payload = { name, amount: showBytes(done) }
      if (bar.isActive) bar.setTotal(end)
      else bar.start(end, done, payload)
      bar.update(done, payload)
    },
    note: nothing,
    stop: () => bar.stop(),
  }
}

const showNotes = (stream: NodeJS.WritableStream): DownloadProgress => ({
  update: nothing,
  note(line) {
    stream.write(`${line}\n`)
  },
  stop: nothing,
})

function showPullBars(files: readonly RepositoryFile[], stream: NodeJS.WriteStream): PullView {
  const options = {
    format: downloadFormat,
    stream,
    hideCursor: true,
    clearOnComplete: true,
    barsize: 24,
  }
  const bars = new MultiBar(options, Presets.shades_classic)
  const size = files.reduce((sum, { bytes }) => sum + bytes, 0)
  const total = bars.create(size, 0, { name: 'total', amount: showBytes(size) })
  const running = new Map<RepositoryFile, SingleBar>()
  const received = new Map<RepositoryFile, number>()

  function update(file: RepositoryFile, done: number) {
    total.increment(done - (received.get(file) ?? 0))
    received.set(file, done)
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

const showPullLines = (stream: NodeJS.WritableStream): PullView => ({
  start: nothing,
  update: nothing,
  finish({ path, bytes }) {
    stream.write(`${path}: ${showBytes(bytes)}\n`)
  },
  stop: nothing,
})
