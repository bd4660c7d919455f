import { Presets, SingleBar } from 'cli-progress'

export type ProgressView = {
  readonly update: (done: number) => void
  readonly stop: () => void
}

/** Shows how many of `total` steps are done: a bar on a terminal, plain lines elsewhere. */
export function showProgress(total: number, stream: NodeJS.WriteStream): ProgressView {
  return stream.isTTY ? showBar(total, stream) : showLines(total, stream)
}

function showBar(total: number, stream: NodeJS.WriteStream): ProgressView {
  const format = '{bar} step {value}/{total} · {duration_formatted}'
  const bar = new SingleBar({ format, stream, hideCursor: true }, Presets.shades_classic)
  bar.start(total, 0)
  return { update: (done) => bar.update(done), stop: () => bar.stop() }
}

const showLines = (total: number, stream: NodeJS.WritableStream): ProgressView => ({
  update: (done) => void stream.write(`step ${done}/${total}\n`),
  stop: () => {},
})
