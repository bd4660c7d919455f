import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PassThrough } from 'node:stream'
import sharp from 'sharp'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { chooseOutput, listPaths, readInputFlags } from '../../src/cli/inputFlags.js'
import { addLora } from '../../src/cli/loras.js'
import { type RunFlags, runPrompt } from '../../src/cli/run.js'
import { readConfig } from '../../src/config/config.js'
import { FluxdError } from '../../src/errors.js'
import type { startEngine } from '../../src/worker/engine/client.js'
import { flat } from '../engine/images/images.js'
import { createFakeEngine, type FakeEngineOptions } from '../fakeEngine.js'
import { temporaryData } from '../temporaryData.js'

async function makeFolder() {
  const folder = await mkdtemp(join(tmpdir(), 'fluxd-run-'))
  onTestFinished(() => rm(folder, { recursive: true }))
  return folder
}

function prepare(options: FakeEngineOptions = {}) {
  const engine = createFakeEngine(options)
  const start = vi.fn<typeof startEngine>(() => engine)
  const canceling = new AbortController()
  const [stdout, stderr] = [new PassThrough(), new PassThrough()]
  const config = readConfig({ FLUXD_DEVICE: 'cpu', FLUXD_DATA_DIR: temporaryData() })
  const run = (flags: RunFlags) =>
    runPrompt('a yellow star', flags, {
      config,
      signal: canceling.signal,
      stdout,
      stderr: stderr as unknown as NodeJS.WriteStream,
      start,
    })
  const read = (stream: PassThrough) => String(stream.read() ?? '')
  return {
    engine,
    start,
    canceling,
    config,
    run,
    raw: stdout,
    stdout: () => read(stdout),
    stderr: () => read(stderr),
  }
}

const streams = () => ({
  stdout: new PassThrough(),
  stderr: new PassThrough() as unknown as NodeJS.WriteStream,
})

describe('fluxd run', () => {
  test.each([
    ['star.webp', 'webp'],
    ['star.jpg', 'jpeg'],
    ['star.JPEG', 'jpeg'],
    ['star.png', 'png'],
  ])('writes %s as %s and prints its size and seed', async (name, format) => {
    const output = join(await makeFolder(), name)
    const { run, engine, stdout } = prepare()
    await run({ output, seed: '7', steps: '2' })
    expect((await sharp(output).metadata()).format).toBe(format)
    expect(stdout()).toBe(`${output}: 1024×1024, seed 7, 0.3 s\n`)
    expect(engine.stops()).toBe(1)
  })

  test('keeps the numbers of the images that the safety checker passes', async () => {
    const folder = await makeFolder()
    const { run, engine, start, stdout, stderr } = prepare()
    start.mockReturnValue({
      ...engine,
      async generate(plan, options) {
        const { images, timings } = await engine.generate(plan, options)
        options?.onEvent?.({ kind: 'flagged', id: 'fake', image: 0 })
        return { images: images.slice(1), timings }
      },
    })
    await run({ output: join(folder, 'star.webp'), numOutputs: '2', steps: '1' })
    expect(await readdir(folder)).toEqual(['star-2.webp'])
    expect(stdout()).toMatch(/star-2\.webp: /)
    expect(stderr()).toContain('NSFW content detected in image 0\n')
  })

  test('numbers the files of several images', async () => {
    const folder = await makeFolder()
    const { run } = prepare()
    await run({ output: join(folder, 'star.webp'), numOutputs: '3', steps: '1' })
    expect((await readdir(folder)).sort()).toEqual(['star-1.webp', 'star-2.webp', 'star-3.webp'])
  })

  test('writes one plain line for each step where there is no terminal', async () => {
    const { run, stderr } = prepare()
    await run({ output: join(await makeFolder(), 'a.webp'), steps: '2', numOutputs: '2' })
    const steps = stderr()
      .split('\n')
      .filter((line) => line.startsWith('step'))
    expect(steps).toEqual(['step 1/4', 'step 2/4', 'step 3/4', 'step 4/4'])
  })

  test('uses --checkpoint for the chosen model and --noise over the setting', async () => {
    const { run, start, engine, config } = prepare()
    const output = join(await makeFolder(), 'a.webp')
    await run({ output, model: 'schnell', checkpoint: '/models/s', noise: 'torch-cpu' })
    const { checkpoints, scratch } = start.mock.calls[0]![0]
    expect(checkpoints).toEqual({ ...readConfig({}).checkpoints, schnell: '/models/s' })
    expect(scratch).toBe(join(config.dataDir, 'scratch'))
    expect(engine.plans[0]).toMatchObject({ variant: 'schnell', noise: 'torch-cpu' })
  })

  test('writes the bytes alone to stdout where the output is -', async () => {
    const { run, raw, stderr } = prepare()
    await run({ output: '-', format: 'png', seed: '7', steps: '1' })
    const bytes = raw.read() as Buffer
    expect((await sharp(bytes).metadata()).format).toBe('png')
    expect(stderr()).toMatch(/1024×1024, seed 7, 0\.\d s\n$/)
  })

  test('refuses several images on stdout, and a format that there is not', async () => {
    const { run, start } = prepare()
    await expect(run({ output: '-', numOutputs: '2' })).rejects.toThrow(
      'Expected one image for --output - but --num-outputs is 2',
    )
    await expect(run({ output: '-', format: 'gif' })).rejects.toThrow(
      'Expected --format to be webp, jpg or png but received gif',
    )
    expect(start).not.toHaveBeenCalled()
  })

  test('merges LoRAs of files, of bundled names and of names that were added', async () => {
    const { run, engine, config } = prepare()
    const file = join(config.loras.builtin!, 'fofr--shxdo-v2.safetensors')
    const context = { config, signal: new AbortController().signal, ...streams() }
    await addLora('mine', file, context)
    const output = join(await makeFolder(), 'a.webp')
    await run({ output, steps: '1', lora: [`${file}:0.5`, 'fofr/shxdo-v2:-1', 'mine'] })
    expect(engine.plans[0]).toMatchObject({
      loras: [
        { name: 'fofr--shxdo-v2.safetensors', path: file, scale: 0.5 },
        { name: 'fofr/shxdo-v2', path: file, scale: -1 },
        { name: 'mine', path: expect.stringContaining(config.dataDir), scale: 1 },
      ],
    })
  })

  test('refuses a LoRA that is neither a file nor a name before an engine starts', async () => {
    const { run, start } = prepare()
    const output = join(await makeFolder(), 'a.webp')
    await expect(run({ output, lora: ['./nothing.safetensors'] })).rejects.toThrow(
      'Expected a file or a reference but there is no file ./nothing.safetensors',
    )
    expect(start).not.toHaveBeenCalled()
  })

  test('passes on what is wrong and stops the engine', async () => {
    const failure = new FluxdError('checkpoint_invalid', 'Expected vae/config.json in /models')
    const { run, engine } = prepare({ failure })
    const folder = await makeFolder()
    await expect(run({ output: join(folder, 'a.webp') })).rejects.toThrow(failure.message)
    expect(engine.stops()).toBe(1)
    expect(await readdir(folder)).toEqual([])
  })

  test('is canceled by its signal and writes nothing', async () => {
    const { run, engine, canceling } = prepare({ gate: new Promise(() => {}) })
    const folder = await makeFolder()
    const running = run({ output: join(folder, 'a.webp') })
    await vi.waitFor(() => expect(engine.plans).toHaveLength(1))
    canceling.abort()
    await expect(running).rejects.toMatchObject({ code: 'canceled' })
    expect(engine.stops()).toBe(1)
    expect(await readdir(folder)).toEqual([])
  })

  test.each<[Partial<RunFlags>, string]>([
    [
      { output: '/nowhere/a.webp' },
      'Expected the folder of --output to be writable but received /nowhere',
    ],
    [
      { output: 'a.gif' },
      'Expected --output to end in .webp, .jpg, .jpeg, .png but received a.gif',
    ],
    [{ steps: '51' }, '--steps: Input should be less than or equal to 50'],
    [{ steps: 'many' }, '--steps: Input should be a valid number but received many'],
    [{ seed: '' }, '--seed: Input should be a valid number'],
    [{ model: 'pro' }, "--model: Input should be 'dev' or 'schnell'"],
    [{ width: '512' }, "width and height must be defined if aspect ratio is 'custom'"],
  ])('says what is wrong with %j before an engine starts', async (flags, message) => {
    const { run, start } = prepare()
    await expect(run({ output: 'a.webp', ...flags })).rejects.toThrow(message)
    expect(start).not.toHaveBeenCalled()
  })
})

describe('an image to start from', () => {
  async function makePicture(width: number, height: number) {
    const path = join(await makeFolder(), 'in.png')
    await flat(width, height, 'navy').png().toFile(path)
    return path
  }

  test('may be a file, with a mask and a strength', async () => {
    const [image, mask] = [await makePicture(100, 60), await makePicture(10, 6)]
    const output = join(await makeFolder(), 'out.png')
    const { run, engine, stderr } = prepare()
    await run({ output, image, mask, strength: '0.5', steps: '4' })
    expect(engine.plans).toMatchObject([
      {
        size: { width: 112, height: 64 },
        start: { kind: 'inpaint', image: { size: { width: 100, height: 60 } } },
        firstStep: 2,
      },
    ])
    expect(stderr()).toMatch(/step 1\/2\nstep 2\/2\n$/)
  })

  test('may be a URL of this network', async () => {
    const bytes = await flat(20, 20, 'navy').png().toBuffer()
    const server = createServer((_, response) => response.end(bytes))
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    onTestFinished(() => void server.close())
    const { port } = server.address() as AddressInfo
    const { run, engine } = prepare()
    const output = join(await makeFolder(), 'out.png')
    await run({ output, image: `http://127.0.0.1:${port}/`, steps: '1' })
    expect(engine.plans).toMatchObject([{ size: { width: 32, height: 32 } }])
  })

  test.each<[Partial<RunFlags>, RegExp]>([
    [
      { image: '/nowhere.png' },
      /^Expected --image to be a file or URL but received \/nowhere.png$/,
    ],
    [{ image: 'data:,', mask: '/nowhere' }, /^Expected --mask to be a file or URL/],
    [{ strength: '2' }, /^--strength: Input should be less than or equal to 1 but received 2$/],
    [{ image: 'data:,x', strength: '0' }, /^After adjusting the num_inference_steps/],
    [{ image: 'data:,' }, /^image: Expected data in the data URI/],
  ])('is checked before an engine starts: %j', async (flags, message) => {
    const { run, start } = prepare()
    await expect(run({ output: 'a.webp', ...flags })).rejects.toThrow(message)
    expect(start).not.toHaveBeenCalled()
  })

  test('that is none stops the engine again', async () => {
    const { run, engine } = prepare()
    await expect(run({ output: 'a.webp', image: 'data:,x' })).rejects.toThrow(
      /^Expected image to be a picture that can be read/,
    )
    expect(engine.stops()).toBe(1)
  })
})

test.each([
  [{ model: 'schnell' }, 4],
  [{ model: 'schnell', steps: '9' }, 9],
  [{ model: 'dev' }, 28],
  [{}, 28],
])('%j means %d steps', (flags, steps) => {
  const input = readInputFlags('p', { output: 'a.png', ...flags })
  expect(input.num_inference_steps).toBe(steps)
})

test('every flag is a field of the input', () => {
  const flags = {
    output: 'a.png',
    model: 'schnell',
    steps: '4',
    seed: '-3',
    width: '640',
    height: '480',
    guidance: '2.5',
    numOutputs: '2',
    quality: '0',
  }
  expect(readInputFlags('p', flags)).toMatchObject({
    prompt: 'p',
    model: 'schnell',
    num_inference_steps: 4,
    seed: -3,
    aspect_ratio: 'custom',
    width: 640,
    height: 480,
    guidance_scale: 2.5,
    num_outputs: 2,
    output_quality: 0,
    output_format: 'png',
  })
  expect(
    readInputFlags('p', { output: 'a.jpg', aspectRatio: '16:9', megapixels: '0.25' }),
  ).toMatchObject({
    aspect_ratio: '16:9',
    megapixels: '0.25',
    output_format: 'jpg',
  })
})

test('a dot in a folder is not the extension of the file', () => {
  expect(listPaths('v1.0/star.webp', 2)).toEqual(['v1.0/star-1.webp', 'v1.0/star-2.webp'])
})

test('without an output a name is chosen that is free', async () => {
  const folder = await makeFolder()
  const before = process.cwd()
  process.chdir(folder)
  onTestFinished(() => process.chdir(before))
  expect(chooseOutput('webp', 1)).toBe('out.webp')
  await writeFile('out.webp', '')
  expect(chooseOutput('webp', 1)).toBe('out2.webp')
  await writeFile('out2.webp', '')
  expect(chooseOutput('webp', 1)).toBe('out3.webp')
  await writeFile('out-2.png', '')
  expect(chooseOutput('png', 2)).toBe('out2.png')
})
