/** The report of `fluxd bench` as text for a terminal. */
import type { BenchReport } from '../bench/report.js'
import { showBytes } from './progressBars.js'

type Row = readonly string[]

/** Tables and lines, ending in a newline. */
export const describeReport = (report: BenchReport): string =>
  [
    describeMachine(report),
    describePictures(report),
    describeStarts(report),
    describeSwitches(report),
    describeCeilings(report),
  ]
    .filter((part) => part !== '')
    .join('\n')

function describeMachine(report: BenchReport): string {
  const { device, backend, machine, load, versions, models } = report
  const { cpu, cores, card } = machine
  const { fluxd, onnxruntime, node, driver, cuda } = versions
  const isOnCard = device !== 'cpu'
  const place = isOnCard && card ? card.name : `${cpu}, ${cores} cores`
  const software = [
    `fluxd ${fluxd}`,
    `ONNX Runtime ${onnxruntime}${backend === 'native' ? ' by the addon' : ''}`,
    `Node ${node}`,
    ...(isOnCard && driver !== undefined ? [`driver ${driver}`] : []),
    ...(isOnCard && cuda !== undefined ? [`CUDA ${cuda}`] : []),
  ]
  return [
    `${place}, load ${load.before.toFixed(1)} before and ${load.after.toFixed(1)} after`,
    software.join(', '),
    ...models.map(
      ({ variant, width, doubleBlocks, singleBlocks, bytes }) =>
        `${variant}: ${width} wide, ${doubleBlocks}+${singleBlocks} blocks, ${showBytes(bytes)}`,
    ),
    '',
  ].join('\n')
}

function describePictures({ pictures }: BenchReport): string {
  const head = ['picture', 'seconds', 'low', 'high', 'step', 'text', 'decode', 'encode']
  return toTable([
    [...head, 'operations', 'of the ceiling'],
    ...pictures.map(({ variant, precision, width, height, steps, ...each }) => [
      `${variant} ${precision} ${width}×${height}, ${steps} steps`,
      ...[each.picture.median, each.picture.low, each.picture.high].map(showSeconds),
      showSeconds(each.step.median),
      ...[each.stages.prompt, each.stages.decode, each.stages.encode].map(showSeconds),
      showRate(each.ratio.operationsPerSecond, 'FLOP/s'),
      `${showShare(each.ratio.share)} (${each.ratio.limit})`,
    ]),
  ])
}

const describeStarts = ({ starts }: BenchReport): string =>
  toTable([
    ['start', 'in page cache', 'process', 'load', 'first picture'],
    ...starts.map(({ variant, cached, process, load, firstPicture }) => [
      variant,
      cached === undefined ? 'unknown' : showShare(cached),
      ...[process, load, firstPicture].map(showSeconds),
    ]),
  ])

function describeSwitches({ loraSwitches: lora, variantSwitches }: BenchReport): string {
  const loras: readonly Row[] = lora
    ? [
        [`LoRA of ${showBytes(lora.bytes)}, not in page cache`, showSeconds(lora.cold.median)],
        [`LoRA of ${showBytes(lora.bytes)}, in page cache`, showSeconds(lora.warm.median)],
        ['the same, prepared during the picture before', showSeconds(lora.prepared.median)],
        ['another scale of it', showSeconds(lora.scaleOnly.median)],
        ['no LoRA', showSeconds(lora.none.median)],
      ]
    : []
  const between: readonly Row[] = variantSwitches.map(({ to, after, again }) => [
    `${to}, a picture of one step (${showSeconds(again.median)} without a switch)`,
    showSeconds(after.median),
  ])
  const rows = [...loras, ...between]
  return rows.length === 0 ? '' : toTable([['switch to', 'seconds'], ...rows])
}

function describeCeilings({ ceilings, memory, device }: BenchReport): string {
  const { shape, products, copies } = ceilings
  const dtypes = device === 'cpu' ? 'float32' : 'bf16'
  const fp8 =
    device === 'cpu' || products.fp8 === undefined
      ? ''
      : `, fp8 ${showRate(products.fp8, 'FLOP/s')}`
  const peaks = [
    memory.engine === undefined ? [] : [`engine ${showBytes(memory.engine)}`],
    memory.device === undefined ? [] : [`GPU ${showBytes(memory.device)}`],
  ].flat()
  const ceiling =
    `products [${shape.rows},${shape.inner}]·[${shape.inner},${shape.outer}] ` +
    `${dtypes} ${showRate(products.bf16, 'FLOP/s')}${fp8}`
  return [
    `ceilings: ${ceiling}; copies ${showRate(copies, 'B/s')}`,
    ...(peaks.length === 0 ? [] : [`peak memory: ${peaks.join(', ')}`]),
    '',
  ].join('\n')
}

const showShare = (share: number) => `${(100 * share).toFixed(0)} %`

/** Three significant digits, down to milliseconds. */
const showSeconds = (seconds: number) => seconds.toFixed(seconds < 10 ? 3 : seconds < 100 ? 2 : 1)

/** `123.4 GFLOP/s` */
function showRate(perSecond: number, unit: string): string {
  const prefixes = ['', 'k', 'M', 'G', 'T', 'P']
  const power = Math.min(Math.max(Math.floor(Math.log10(perSecond) / 3), 0), prefixes.length - 1)
  return `${(perSecond / 1000 ** power).toFixed(1)} ${prefixes[power]}${unit}`
}

/** Aligned columns: the first to the left, numbers to the right. */
function toTable(rows: readonly Row[]): string {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)))
  return rows
    .map((row) =>
      row
        .map((cell, i) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!)))
        .join('  '),
    )
    .concat('')
    .join('\n')
}
