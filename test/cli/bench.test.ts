import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { PassThrough } from 'node:stream'
import { describe, expect, test, vi } from 'vitest'
import { BenchReport } from '../../src/bench/report.js'
import { type BenchFlags, runBench } from '../../src/cli/bench.js'
import { describeReport } from '../../src/cli/benchReport.js'
import { readConfig } from '../../src/config/config.js'
import { startEngine } from '../../src/worker/engine/client.js'
import { createFakeEngine } from '../fakeEngine.js'
import { temporaryData } from '../temporaryData.js'

function prepare(start: typeof startEngine, signal = new AbortController().signal) {
  const [stdout, stderr] = [new PassThrough(), new PassThrough()]
  const run = (flags: BenchFlags) =>
    runBench(flags, {
      config: readConfig({ FLUXD_DEVICE: 'cpu', FLUXD_DATA_DIR: temporaryData() }),
      ...{ signal, stdout, start },
      stderr: stderr as unknown as NodeJS.WriteStream,
    })
  const read = (stream: PassThrough) => String(stream.read() ?? '')
  return { run, stdout: () => read(stdout), stderr: () => read(stderr) }
}

/** A report of a GPU with round numbers. */
const full: BenchReport = {
  date: '2026-11-21T09:00:00.000Z',
  device: 'cuda',
  backend: 'native',
  threads: 0,
  machine: {
    cpu: 'A CPU',
    cores: 16,
    memory: 128e9,
    card: { name: 'A card', memory: 80e9 },
  },
  load: { before: 0.25, after: 1.5 },
  versions: { fluxd: '1.2.3', node: '20.1.0', onnxruntime: '1.29.0', driver: '580', cuda: '13.0' },
  models: [
    {
      ...{ variant: 'dev', width: 3072, doubleBlocks: 19, singleBlocks: 38 },
      ...{ textTokens: 512, bytes: 33.7e9 },
    },
  ],
  starts: [{ variant: 'dev', cached: 0.5, process: 0.5, load: 12.25, firstPicture: 110 }],
  pictures: [
    {
      ...{ variant: 'dev', precision: 'fp8', width: 1024, height: 768, steps: 28, repeats: 5 },
      picture: { median: 3, low: 2.5, high: 4 },
      step: { median: 0.1, low: 0.09, high: 0.11 },
      stages: { prompt: 0.02, denoise: 2.8, decode: 0.1, encode: 0.05 },
      outsideOrt: 0.01,
      ratio: {
        ...{ operations: 74e12, operationsPerSecond: 740e12, intensity: 900 },
        ...{ ceilingSeconds: 0.075, limit: 'products', share: 0.75 },
      },
    },
  ],
  loraSwitches: {
    ...{ variant: 'dev', bytes: 172e6, coldCached: 0 },
    cold: { median: 0.5, low: 0.5, high: 0.5 },
    warm: { median: 0.25, low: 0.2, high: 0.3 },
    prepared: { median: 0.0625, low: 0.05, high: 0.1 },
    scaleOnly: { median: 0.125, low: 0.1, high: 0.2 },
    none: { median: 0, low: 0, high: 0 },
  },
  variantSwitches: [],
  ceilings: {
    shape: { rows: 4608, inner: 3072, outer: 12288 },
    products: { bf16: 700e12, fp8: 1.3e15 },
    copies: 2.9e12,
  },
  memory: { engine: 2e9, device: 38e9 },
}

describe('fluxd bench', () => {
  test.each<readonly [BenchFlags, RegExp]>([
    [{ size: ['1024'] }, /^Expected --size to be such as 1024x768, .* but received 1024$/],
    [{ size: ['512x512', '500x512'] }, /^Expected --size .* but received 500x512$/],
    [{ size: ['32x512'] }, /^Expected --size /],
    [{ size: ['4096x512'] }, /^Expected --size /],
    [{ repeats: '0' }, /^Expected --repeats to be 1 to 999 but received 0$/],
    [{ repeats: '2.5' }, /^Expected --repeats /],
    [{ json: '/nowhere/report.json' }, /^Expected the folder of --json to be writable /],
    [{ checkpoint: '/nowhere' }, /^\/nowhere: expected a diffusers folder /],
    [{ lora: '/nowhere/a.safetensors' }, /^Expected --lora to be a file or a name /],
  ])('says what is wrong with %o before an engine starts', async (flags, message) => {
    const start = vi.fn<typeof startEngine>()
    await expect(prepare(start).run(flags)).rejects.toThrow(message)
    expect(start).not.toHaveBeenCalled()
  })

  test('stops the engine when it is canceled', async () => {
    const engine = createFakeEngine()
    const { run } = prepare(() => engine, AbortSignal.abort())
    await expect(run({ quick: true })).rejects.toThrow('The prediction was canceled')
    expect(engine.stops()).toBe(1)
  })

  test('measures the embedded model, and its report is the one it writes', async () => {
    const json = join(temporaryData(), 'report.json')
    const { run, stdout, stderr } = prepare(startEngine)
    await run({ quick: true, size: ['256x256'], precision: ['bf16'], repeats: '1', json })
    const report = BenchReport.parse(JSON.parse(readFileSync(json, 'utf8')))
    expect(stdout()).toBe(describeReport(report))
    expect(stderr()).toMatch(/^start of dev\nstart of schnell\n/)
    expect(report).toMatchObject({
      device: 'cpu',
      models: [
        { variant: 'dev', width: 96, doubleBlocks: 1, singleBlocks: 3, textTokens: 32 },
        { variant: 'schnell' },
      ],
      starts: [{ variant: 'dev' }, { variant: 'schnell' }],
      pictures: [
        { variant: 'dev', precision: 'bf16', width: 256, height: 256, steps: 28 },
        { variant: 'schnell', steps: 4 },
      ],
      variantSwitches: [{ to: 'dev' }, { to: 'schnell' }],
      ceilings: { shape: { rows: 288, inner: 96, outer: 384 } },
    })
    const [dev] = report.pictures
    // How much of an image its stages are is the machine's: what they cannot be is more than all.
    const { prompt, denoise, decode, encode } = dev!.stages
    const stages = prompt + denoise + decode + encode
    expect(stages).toBeGreaterThan(denoise)
    // Each is rounded for the report.
    expect(stages / dev!.picture.median).toBeLessThan(1.01)
    expect((28 * dev!.step.median) / denoise).toBeCloseTo(1, 2)
    expect(dev!.ratio.share).toBeGreaterThan(0)
    const { none, warm } = report.loraSwitches!
    expect(none.median).toBeGreaterThanOrEqual(0)
    expect(warm.median).toBeGreaterThan(0)
    expect(report.memory.engine).toBeGreaterThan(100e6)
    expect(report.memory.device).toBeUndefined()
  })
})

describe('the table', () => {
  test('has all results', () => {
    expect(BenchReport.parse(full)).toEqual(full)
    expect(describeReport(full)).toBe(
      [
        'A card, load 0.3 before and 1.5 after',
        'fluxd 1.2.3, ONNX Runtime 1.29.0 by the addon, Node 20.1.0, driver 580, CUDA 13.0',
        'dev: 3072 wide, 19+38 blocks, 33.7 GB',
        '',
        'picture                     seconds    low   high   step   text  decode  encode     operations   of the ceiling',
        'dev fp8 1024×768, 28 steps    3.000  2.500  4.000  0.100  0.020   0.100   0.050  740.0 TFLOP/s  75 % (products)',
        '',
        'start  in page cache  process   load  first picture',
        'dev             50 %    0.500  12.25          110.0',
        '',
        'switch to                                     seconds',
        'LoRA of 172.0 MB, not in page cache             0.500',
        'LoRA of 172.0 MB, in page cache                 0.250',
        'the same, prepared during the picture before    0.063',
        'another scale of it                             0.125',
        'no LoRA                                         0.000',
        '',
        'ceilings: products [4608,3072]·[3072,12288] bf16 700.0 TFLOP/s, fp8 1.3 PFLOP/s; copies 2.9 TB/s',
        'peak memory: engine 2.0 GB, GPU 38.0 GB',
        '',
      ].join('\n'),
    )
  })

  test('leaves out what was not measured', () => {
    const { loraSwitches, ...rest } = full
    const text = describeReport({ ...rest, device: 'cpu', backend: 'ort', memory: {} })
    expect(text).toMatch(
      /^A CPU, 16 cores, load 0\.3 before and 1\.5 after\nfluxd 1\.2\.3, ONNX Runtime 1\.29\.0, Node 20\.1\.0\n/,
    )
    expect(text).not.toMatch(/LoRA|peak memory|fp8 1\.3|switch/)
  })
})
