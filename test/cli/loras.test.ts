/** The library on the command line, against a local server; and what `inspect` says of files. */
import { execFile } from 'node:child_process'
import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { PassThrough } from 'node:stream'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { describe, expect, test } from 'vitest'
import { type InspectFlags, inspect } from '../../src/cli/inspect.js'
import { addLora, listLoras, removeLora } from '../../src/cli/loras.js'
import { readConfig } from '../../src/config/config.js'
import { number, writeLora } from '../engine/lora/loraFiles.js'
import { makeWeights, startHost } from '../loras/hosts.js'
import { makeFolder } from '../loras/server.js'

const fixture = (name: string) =>
  fileURLToPath(new URL(`../fixtures/lora/${name}.safetensors`, import.meta.url))

async function prepare() {
  const host = await startHost()
  const dataDir = makeFolder()
  const [stdout, stderr] = [new PassThrough(), new PassThrough()]
  const environment = {
    FLUXD_DATA_DIR: dataDir,
    FLUXD_HF_URL: host.origin,
    FLUXD_CIVITAI_URL: host.origin,
    FLUXD_CIVITAI_TOKEN: 'cv_SECRET',
    FLUXD_LORA_MIN_FREE_BYTES: '0B',
  }
  const context = {
    config: readConfig(environment),
    signal: new AbortController().signal,
    stdout,
    stderr: stderr as unknown as NodeJS.WriteStream,
  }
  const read = (stream: PassThrough) => String(stream.read() ?? '')
  return {
    host,
    context,
    environment,
    stdout: () => read(stdout),
    stderr: () => read(stderr),
    run: (place: string, flags: InspectFlags = {}) => inspect(place, flags, context),
  }
}

test.each(['nope.safetensors', './nope', '/nowhere/nope.safetensors'])(
  'fluxd loras add of %s, which is no file, says so',
  async (source) => {
    const { context } = await prepare()
    await expect(addLora('mine', source, context)).rejects.toThrow(
      `Expected a file or a reference but there is no file ${source}`,
    )
  },
)

describe('fluxd loras', () => {
  test('ls of a data folder that is not there is empty, and makes none', async () => {
    const { context, stdout } = await prepare()
    const dataDir = join(context.config.dataDir, 'not/yet')
    await listLoras({}, { ...context, config: { ...context.config, dataDir } })
    expect(stdout()).toMatch(/^There are no LoRAs yet/)
    await listLoras({ json: true }, { ...context, config: { ...context.config, dataDir } })
    expect(JSON.parse(stdout())).toEqual([])
    expect(existsSync(dataDir)).toBe(false)
  })

  test('a data folder that cannot be used is an error in a sentence', async () => {
    const { context } = await prepare()
    const file = join(context.config.dataDir, 'file')
    writeFileSync(file, '')
    const broken = { ...context, config: { ...context.config, dataDir: file } }
    await expect(listLoras({}, broken)).rejects.toThrow(
      `Expected ${file}/loras/names to be a folder that can be read (ENOTDIR)`,
    )
    await expect(addLora('mine', fixture('lora_kohya'), broken)).rejects.toThrow(
      `Expected ${file}/loras/blobs to be a folder that can be written into (ENOTDIR)`,
    )
  })

  test('add, ls and rm a reference', async () => {
    const { host, context, stdout, stderr } = await prepare()
    await listLoras({}, context)
    expect(stdout()).toMatch(/^There are no LoRAs yet/)

    const weights = makeWeights(12_345)
    host.file('/api/download/models/7', weights)
    const source = 'https://civitai.com/api/download/models/7?type=Model&token=SECRET'
    await addLora('watercolour', source, context)
    expect(stderr()).toMatch(
      /^free=\d+\nDownloading weights\ndownloading weights from .*token=\*{3}\nDownloaded weights in/,
    )
    const path = /^watercolour is (.*)\n$/.exec(stdout())?.[1]
    expect(existsSync(path!)).toBe(true)

    await listLoras({}, context)
    expect(stdout()).toMatch(
      /^NAME +SHA-256 +SIZE +USED +SOURCE\nwatercolour {2}[0-9a-f]{12} {2}12\.4 kB {2}\d{4}-\d\d-\d\dT\d\d:\d\d {2}https:\/\/civitai\.com\/api\/download\/models\/7\?type=Model&token=\*{3}\n$/,
    )
    await listLoras({ json: true }, context)
    expect(JSON.parse(stdout())).toEqual([
      {
        name: 'watercolour',
        source: 'https://civitai.com/api/download/models/7?type=Model&token=***',
        digest: expect.stringMatching(/^[0-9a-f]{64}$/),
        bytes: weights.length,
        usedAt: expect.any(String),
      },
    ])

    stdout()
    await removeLora('watercolour', context)
    expect(stdout()).toBe('removed watercolour\n')
    expect(existsSync(path!)).toBe(false)
    await expect(removeLora('watercolour', context)).rejects.toThrow(
      'There is no LoRA named watercolour',
    )
  })

  test('add a file of this machine', async () => {
    const { context, run, stdout } = await prepare()
    await addLora('peft', fixture('lora_peft'), context)
    expect(stdout()).toMatch(/^peft is .*blobs/)
    await run('peft')
    expect(stdout()).toMatch(/ {2}format {5}diffusers\n/)
  })

  test('a failed download has the words of the contract', async () => {
    const { context } = await prepare()
    await expect(addLora('x', 'civitai.com/models/1', context)).rejects.toThrow(
      /^Model not found on CivitAI at that URL/,
    )
    await expect(addLora('x', 'no/such/thing/at/all', context)).rejects.toThrow(
      /^Failed to parse URL/,
    )
  })
})

describe('fluxd loras inspect', () => {
  test('says that a bundled one fits the embedded model', async () => {
    const { run, stdout } = await prepare()
    expect(await run('fofr/shxdo-v2')).toBe(true)
    expect(stdout()).toMatch(
      /modules {4}28 \(lowRank\)\n {2}keys {7}56 of 56 matched\n {2}base {7}fits .*models\/tiny\/dev; does not fit Flux\.1 as published\n {2}ranks\n {4}rank 4, alpha 4: 28 modules\n/,
    )
  })

  test('says that a full-size one fits Flux.1 as published, not the embedded model', async () => {
    const { run, stdout } = await prepare()
    const stem = 'lora_unet_double_blocks_18_img_attn_proj'
    const path = writeLora({
      [`${stem}.lora_down.weight`]: [8, 3072],
      [`${stem}.lora_up.weight`]: [3072, 8],
      [`${stem}.alpha`]: number(4),
    })
    expect(await run(path)).toBe(true)
    expect(stdout()).toMatch(
      /base {7}does not fit .*models\/tiny\/dev; fits Flux\.1 as published\n {2}ranks\n {4}rank 8, alpha 4: 1 module\n/,
    )
    expect(await run(path, { json: true })).toBe(true)
    expect(JSON.parse(stdout())).toMatchObject({
      path,
      bases: [{ fits: false }, { base: 'Flux.1 as published', fits: true }],
      modules: [{ name: stem, rank: 8, alpha: 4, factor: 0.5 }],
    })
  })

  test('lists what is wrong with one for another model, without control characters', async () => {
    const { run, stdout } = await prepare()
    const path = writeLora(
      { 'lora_unet_input_blocks_4_1_proj_in.lora_down.weight': [4, 640] },
      { 'evil\u001b[2J': 'a\nb' },
    )
    expect(await run(path)).toBe(false)
    const text = stdout()
    expect(text).toMatch(/keys {7}0 of 1 matched\n/)
    expect(text).toMatch(/unmatched\n {4}expected a LoRA for Flux\.1 but .* Stable Diffusion XL\n/)
    expect(text).toMatch(/metadata\n {4}evil \[2J: a b\n/)
  })

  test('what is no file and no name is refused', async () => {
    const { run } = await prepare()
    await expect(run('no/such')).rejects.toThrow(/no\/such/)
  })

  test('is a command that fails when the file does not fit', async () => {
    const { environment } = await prepare()
    const main = fileURLToPath(new URL('../../src/main.ts', import.meta.url))
    const start = (place: string) =>
      promisify(execFile)(
        process.execPath,
        ['--import', 'tsx', main, 'loras', 'inspect', '--json', place],
        { env: { ...process.env, ...environment } },
      )
    const { stdout } = await start('fofr/shxdo-v2')
    expect(JSON.parse(stdout).modules).toHaveLength(28)
    await expect(start(writeLora({ 'model.weight': [2, 2] }))).rejects.toMatchObject({ code: 1 })
  })
})
