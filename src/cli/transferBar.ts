/** Shows one download: a bar on a terminal, its lines elsewhere. */
import { Presets, SingleBar } from 'cli-progress'
import { showBytes } from './downloadBars.js'

export type TransferView = {
  readonly update: (done: number, total: number | undefined) => void
  readonly note: (line: string) => void
  readonly stop: () => void
}

/** A view of what is fetched for `name`. */
export const showTransfer = (name: string, stream: NodeJS.WriteStream): TransferView =>
  stream.isTTY ? showBar(name, stream) : showLines(stream)

function showBar(name: string, stream: NodeJS.WriteStream): TransferView {
  const format = '{bar} {percentage} % · {amount} · {eta_formatted} · {name}'
  const bar = new SingleBar({ format, stream, hideCursor: true }, Presets.shades_classic)
  return {
    update(done, total) {
      // Without a length there is no end to draw the bar towards.
      const end = total ?? done
      const payload = { name, amount: showBytes(done) }
      if (bar.isActive) bar.setTotal(end)
      else bar.start(end, done, payload)
      bar.update(done, payload)
    },
    note: () => {},
    stop: () => bar.stop(),
  }
}

const showLines = (stream: NodeJS.WritableStream): TransferView => ({
  update: () => {},
  note: (line) => void stream.write(`${line}\n`),
  stop: () => {},
})
