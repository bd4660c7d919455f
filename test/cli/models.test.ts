import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { PassThrough } from 'node:stream'
import { describe, expect, test } from 'vitest'
import { digestFile } from '../../src/catalog/fingerprint.js'
import {
  addModel,
  dropModel,
  listModels,
  type NewModelFlags,
  showModel,
} from '../../src/cli/models.js'
import { checkpoints, makeFolder, makeFolders, models, writeInto } from '../catalog/folders.js'
import { makeWeights, startHost } from '../loras/hosts.js'

const shxdo = join(models, 'tiny/loras/fofr--shxdo-v2.safetensors')

async function prepare() {
  const catalog = makeFolders()
  const host = await startHost()
  const [stdout, stderr] = [new PassThrough(), new PassThrough()]
  const hub = { url: host.origin, token: undefined }
  const context = {
    config: {
      catalog,
      checkpoints,
      dataDir: makeFolder(),
      hosts: { huggingFace: hub, civitai: hub, replicate: hub },
      allowedHosts: ['127.0.0.1'],
      loras: {
        maxBytes: 2 ** 20,
        cacheBytes: 2 ** 24,
        minFreeBytes: 0,
        builtin: join(models, 'tiny/loras'),
      },
    },
    signal: new AbortController().signal,
    stdout,
    stderr,
  }
  const printed = () => String(stdout.read() ?? '')
  const add = (name: string, flags: NewModelFlags = {}) => addModel(name, flags, context)
  const written = (name: string) =>
    JSON.parse(readFileSync(join(catalog.own, `${name}.json`), 'utf8'))
  return { catalog, context, host, printed, add, written }
}

describe('fluxd models ls', () => {
  test('prints a table in which columns are aligned', async () => {
    const { context, printed } = await prepare()
    await listModels({}, context)
    const lines = printed().trimEnd().split('\n')
    expect(lines).toHaveLength(7)
    expect(lines[0]).toMatch(/^MODEL +BASE +LORAS +TRIGGER +VERSION$/)
    const column = lines[0]!.indexOf('VERSION')
    for (const line of lines.slice(1)) expect(line.slice(column)).toMatch(/^[0-9a-f]{12}$/)
    expect(lines[6]).toMatch(/^jose0012kjo\/2vinij2 +dev +1 +VINIJ +/)
  })

  test('prints JSON with whole versions and no readme', async () => {
    const { context, printed } = await prepare()
    await listModels({ json: true }, context)
    const listed = JSON.parse(printed())
    expect(listed).toHaveLength(6)
    expect(listed[0]).toMatchObject({
      owner: 'andreasjansson',
      name: 'flux-sprites',
      triggerWord: 'SPRITE',
      loras: [{ scale: 1, sha256: expect.stringMatching(/^[0-9a-f]{64}$/) }],
      version: expect.stringMatching(/^[0-9a-f]{64}$/),
      createdAt: '2026-11-21T00:00:00.000Z',
    })
    expect(listed[0]).not.toHaveProperty('readme')
  })
})

describe('fluxd models show', () => {
  test('prints the checkpoint, the LoRA with its digest, the defaults and the version', async () => {
    const { context, printed, add } = await prepare()
    const flags = { lora: [`${shxdo}:0.5`], trigger: 'ARR', default: ['guidance_scale=2.5'] }
    await add('me/pirate', flags)
    const version = printed().trim().split('  ')[1]!
    await showModel('me/pirate', {}, context)
    const text = printed()
    expect(text).toMatch(/^trigger +ARR$/m)
    expect(text).toContain(`dev, ${checkpoints.dev}\n`)
    expect(text).toContain(`${shxdo} × 0.5, sha256 ${await digestFile(shxdo)}\n`)
    expect(text).toMatch(/^default +guidance_scale=2.5$/m)
    expect(text).toMatch(new RegExp(`^version +${version}$`, 'm'))
  })

  test('keeps the token of a reference to itself', async () => {
    const { context, printed, add, host } = await prepare()
    host.file('/a.safetensors', makeWeights())
    await add('me/secret', { lora: [`${host.origin}/a.safetensors?token=hunter2`] })
    await showModel('me/secret', {}, context)
    await showModel('me/secret', { json: true }, context)
    expect(printed()).not.toContain('hunter2')
  })

  test('says that there is no such model', async () => {
    const { context } = await prepare()
    await expect(showModel('me/pirate', {}, context)).rejects.toThrow('There is no model me/pirate')
  })
})

describe('fluxd models add', () => {
  test('makes four steps where the base is schnell, unless a default says otherwise', async () => {
    const { add, written } = await prepare()
    await add('me/fast', { base: 'schnell' })
    expect(written('me/fast').defaults).toEqual({ num_inference_steps: 4 })
    await add('me/slow', { base: 'schnell', default: ['num_inference_steps=8'] })
    expect(written('me/slow').defaults).toEqual({ num_inference_steps: 8 })
  })

  test('writes what the flags say', async () => {
    const { add, written, printed, host } = await prepare()
    const weights = makeWeights()
    host.file('/a.safetensors', weights)
    const url = `${host.origin}/a.safetensors`
    await add('me/pirate', {
      lora: ['bocaaa/np', `${url}:-0.5`, shxdo],
      trigger: 'ARR',
      base: 'schnell',
      description: 'A pirate.',
      versionAlias: ['fab4f589'],
      default: ['num_inference_steps=4', 'megapixels=1', 'go_fast=true', 'aspect_ratio=16:9'],
    })
    expect(written('me/pirate')).toEqual({
      description: 'A pirate.',
      versionAliases: ['fab4f589'],
      triggerWord: 'ARR',
      base: 'schnell',
      loras: [
        {
          source: 'bocaaa/np',
          scale: 1,
          sha256: await digestFile(join(models, 'tiny/loras/bocaaa--np.safetensors')),
        },
        {
          source: url,
          scale: -0.5,
          sha256: createHash('sha256').update(weights).digest('hex'),
        },
        { file: shxdo, scale: 1, sha256: await digestFile(shxdo) },
      ],
      defaults: { num_inference_steps: 4, megapixels: '1', go_fast: true, aspect_ratio: '16:9' },
      createdAt: expect.any(String),
    })
    expect(printed()).toMatch(/^me\/pirate {2}[0-9a-f]{64}\n$/)
  })

  test.each<[string, NewModelFlags, string]>([
    ['pirate', {}, 'Expected a model as OWNER/NAME of a-z'],
    ['Me/pirate', {}, 'Expected a model as OWNER/NAME of a-z'],
    ['../me/pirate', {}, 'Expected a model as OWNER/NAME of a-z'],
    ['bocaaa/np', {}, 'Expected a new name but there is a model bocaaa/np'],
    ['me/pirate', { base: 'pro' }, 'Expected --base to be dev or schnell but received pro'],
    ['me/pirate', { default: ['steps=4'] }, 'Expected --default as KEY=VALUE with one of aspect_'],
    ['me/pirate', { default: ['prompt=x'] }, 'Expected --default as KEY=VALUE with one of aspect_'],
    ['me/pirate', { default: ['num_outputs=5'] }, 'a value that num_outputs takes'],
    ['me/pirate', { default: ['go_fast=yes'] }, 'a value that go_fast takes'],
    ['me/pirate', { lora: ['a/b:7'] }, 'Expected the scale of --lora to be -1 to 3 but received 7'],
    ['me/pirate', { lora: ['./none.safetensors'] }, 'there is no ./none.safetensors'],
    ['me/pirate', { lora: [import.meta.filename] }, 'Expected a safetensors file at'],
  ])('refuses %s with %j', async (name, flags, message) => {
    const { add, context, printed } = await prepare()
    await expect(add(name, flags)).rejects.toThrow(message)
    await listModels({ json: true }, context)
    expect(JSON.parse(printed())).toHaveLength(6)
  })

  test('adds nothing when a LoRA cannot be fetched', async () => {
    const { context, printed, add } = await prepare()
    await expect(add('me/a', { lora: ['x/y'] })).rejects.toThrow('Weights not found')
    await expect(showModel('me/a', {}, context)).rejects.toThrow('There is no model')
    expect(printed()).toBe('')
  })
})

describe('fluxd models rm', () => {
  test('removes a model of the user, be its file valid or not', async () => {
    const { context, catalog, add, printed } = await prepare()
    await add('me/a')
    writeInto(catalog.own, 'me/b.json', '{')
    await dropModel('me/b', context)
    await dropModel('me/a', context)
    expect(printed()).toMatch(/removed me\/b\nremoved me\/a\n$/)
    await listModels({ json: true }, context)
    expect(JSON.parse(printed())).toHaveLength(6)
  })

  test('leaves the bundled ones alone', async () => {
    const { context } = await prepare()
    await expect(dropModel('bocaaa/np', context)).rejects.toThrow('comes with fluxd')
    await expect(dropModel('../../tiny/grammar', context)).rejects.toThrow('OWNER/NAME')
  })
})

test('the command line takes several LoRAs and defaults', () => {
  const dataDir = makeFolder()
  const run = (...words: string[]) =>
    execFileSync(process.execPath, ['--import', 'tsx', 'src/main.ts', 'models', ...words], {
      cwd: join(import.meta.dirname, '../..'),
      env: { ...process.env, FLUXD_DATA_DIR: dataDir },
      encoding: 'utf8',
    })
  const loras = ['--lora', 'fofr/shxdo-v2:0.5', 'bocaaa/np']
  run(
    'add',
    'me/pirate',
    ...loras,
    '--default',
    'go_fast=true',
    'num_outputs=2',
    '--trigger',
    'ARR',
  )
  expect(JSON.parse(run('show', 'me/pirate', '--json'))).toMatchObject({
    triggerWord: 'ARR',
    loras: [
      { source: 'fofr/shxdo-v2', scale: 0.5 },
      { source: 'bocaaa/np', scale: 1 },
    ],
    defaults: { go_fast: true, num_outputs: 2 },
  })
})

test('a LoRA that was named without ./ is the file of that name', async () => {
  const { add, written } = await prepare()
  const folder = makeFolder()
  writeFileSync(join(folder, 'a.safetensors'), readFileSync(shxdo))
  const before = process.cwd()
  process.chdir(folder)
  try {
    await add('me/a', { lora: ['a.safetensors'] })
  } finally {
    process.chdir(before)
  }
  expect(written('me/a').loras[0].file).toBe(join(folder, 'a.safetensors'))
})
