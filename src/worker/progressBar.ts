/**
 * Progress lines in the form of tqdm: Replicate's clients read the last line that matches
 * `^\s*(\d+)%\s*\|.+?\|\s*(\d+)\/(\d+)` (replicate-contract §1.9).
 */
const barWidth = 10
const eighths = ['', '▏', '▎', '▍', '▌', '▋', '▊', '▉'] as const

/** For example ` 21%|██▏       | 6/28 [00:00<00:02,  9.15it/s]`. */
export function progressLine(done: number, total: number, seconds: number): string {
  const percent = String(Math.round((100 * done) / total)).padStart(3)
  return `${percent}%|${drawBar(done / total)}| ${done}/${total} [${describePace(done, total, seconds)}]`
}

function drawBar(fraction: number): string {
  const filled = Math.floor(fraction * barWidth * 8)
  return ('█'.repeat(Math.floor(filled / 8)) + eighths[filled % 8]).padEnd(barWidth)
}

function describePace(done: number, total: number, seconds: number): string {
  if (done === 0 || seconds === 0) return `${clock(seconds)}<?, ?it/s`
  const rate = done / seconds
  const pace =
    rate >= 1 ? `${rate.toFixed(2).padStart(5)}it/s` : `${(1 / rate).toFixed(2).padStart(5)}s/it`
  return `${clock(seconds)}<${clock((total - done) / rate)}, ${pace}`
}

function clock(seconds: number): string {
  const whole = Math.floor(seconds)
  const pad = (value: number) => String(value).padStart(2, '0')
  const hours = Math.floor(whole / 3600)
  const rest = `${pad(Math.floor(whole / 60) % 60)}:${pad(whole % 60)}`
  return hours > 0 ? `${hours}:${rest}` : rest
}
