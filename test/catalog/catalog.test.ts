import { existsSync, readdirSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { openCatalog } from '../../src/catalog/catalog.js'
import { digestFile } from '../../src/catalog/fingerprint.js'
import { checkpoints, makeFolders, models, writeInto } from './folders.js'

const open = (folders = makeFolders()) => openCatalog({ folders, checkpoints })

const published = [
  'andreasjansson/flux-sprites',
  'bocaaa/np',
  'fofr/0_1-webp-4-layers',
  'fofr/shxdo-v2',
  'jose0012kjo/2vinij2',
]

describe('the bundled catalog', async () => {
  const catalog = await openCatalog({
    folders: { bundled: join(models, 'catalog'), own: '/nonexistent' },
    checkpoints,
  })
  const fineTunes = catalog.list().filter(({ owner }) => owner !== 'fluxd')

  test('holds the five fine-tunes and the plain base', () => {
    const names = catalog.list().map(({ owner, name }) => `${owner}/${name}`)
    expect(names).toEqual([...published, 'fluxd/flux'].sort())
    expect(catalog.find('fluxd', 'flux')).toMatchObject({ base: 'dev', loras: [], defaults: {} })
  })

  test('gives every fine-tune a LoRA of its own, there and with the digest that is written', async () => {
    const digests = fineTunes.map(({ loras }) => loras[0]!.sha256)
    expect(new Set(digests).size).toBe(5)
    for (const { loras, owner, name, readme } of fineTunes) {
      expect(loras).toHaveLength(1)
      expect(loras[0]).toMatchObject({
        path: join(models, `tiny/loras/${owner}--${name}.safetensors`),
        scale: 1,
        sha256: await digestFile(loras[0]!.path!),
      })
      expect(readme).toMatch(`# ${owner}/${name}\n`)
    }
  })

  test('gives every model a version of its own', () => {
    const versions = catalog.list().map(({ version }) => version)
    expect(new Set(versions).size).toBe(6)
    for (const version of versions) expect(version).toMatch(/^[0-9a-f]{64}$/)
  })

  test('finds by name and by version, and only what is there', () => {
    const model = catalog.find('fofr', 'shxdo-v2')!
    expect(model).toMatchObject({ triggerWord: 'SHXDO', base: 'dev' })
    expect(model.createdAt).toEqual(new Date('2026-11-21T00:00:00Z'))
    expect(catalog.findVersion(model.version)).toBe(model)
    expect(catalog.find('fofr', 'shxdo')).toBeUndefined()
    expect(catalog.find('..', 'tiny')).toBeUndefined()
    expect(catalog.findVersion('0'.repeat(64))).toBeUndefined()
  })
})

describe('a model of the user', () => {
  test('is served beside the bundled ones, with its readme, dated by its file', async () => {
    const folders = makeFolders()
    const file = writeInto(folders.own, 'me/pirate.json', {
      loras: [{ file: './pirate.safetensors', scale: 0.5 }, { source: 'fofr/flux-pixar-cars' }],
      defaults: { guidance_scale: 2.5 },
    })
    writeInto(folders.own, 'me/pirate.md', '# Arr\n')
    const lora = writeInto(folders.own, 'me/pirate.safetensors', 'weights')
    const date = new Date('2025-05-05T05:05:05Z')
    utimesSync(file, date, date)
    const catalog = await open(folders)
    expect(catalog.list()).toHaveLength(7)
    expect(catalog.find('me', 'pirate')).toEqual({
      owner: 'me',
      name: 'pirate',
      description: '',
      base: 'dev',
      loras: [
        {
          source: './pirate.safetensors',
          path: lora,
          scale: 0.5,
          sha256: await digestFile(lora),
        },
        { source: 'fofr/flux-pixar-cars', scale: 1 },
      ],
      defaults: { guidance_scale: 2.5 },
      version: expect.stringMatching(/^[0-9a-f]{64}$/),
      versionAliases: [expect.stringMatching(/^[0-9a-f]{64}$/)],
      visibility: 'public',
      createdAt: date,
      readme: '# Arr\n',
      file,
    })
  })

  test('whose LoRA has gone does not take the others with it', async () => {
    const folders = makeFolders()
    writeInto(folders.own, 'me/gone.json', { loras: [{ file: '/nonexistent.safetensors' }] })
    const { loras } = (await open(folders)).find('me', 'gone')!
    expect(loras).toEqual([
      { source: '/nonexistent.safetensors', path: '/nonexistent.safetensors', scale: 1 },
    ])
  })

  test('whose LoRA is no file does not take the others with it', async () => {
    const folders = makeFolders()
    writeInto(folders.own, 'me/folder.json', { loras: [{ file: '.' }] })
    const { loras } = (await open(folders)).find('me', 'folder')!
    expect(loras).toEqual([{ source: '.', path: join(folders.own, 'me'), scale: 1 }])
  })

  test('must not bear the name of a bundled one', async () => {
    const folders = makeFolders()
    const file = writeInto(folders.own, 'bocaaa/np.json', {})
    await expect(open(folders)).rejects.toThrow(
      `Expected one model bocaaa/np but there are ${join(folders.bundled, 'bocaaa/np.json')} and ${file}`,
    )
  })

  test.each([
    ['me/a.json', '{', 'expected JSON'],
    ['me/a.json', [], 'Invalid input: expected object'],
    ['me/a.json', { lora: [] }, 'Unrecognized key: "lora"'],
    ['me/a.json', { defaults: { steps: 4 } }, 'defaults: Unrecognized key: "steps"'],
    ['me/a.json', { defaults: { prompt: 'a cat' } }, 'defaults: Unrecognized key: "prompt"'],
    ['me/a.json', { defaults: { guidance_scale: 11 } }, 'defaults.guidance_scale: Too big'],
    ['me/a.json', { defaults: { aspect_ratio: 'custom' } }, 'defaults: '],
    ['me/a.json', { loras: [{ source: 'a/b', scale: 4 }] }, 'loras.0.scale: Too big'],
    ['me/a.json', { loras: [{ source: 'a/b', sha256: 'F00' }] }, 'loras.0.sha256: expected 64'],
    ['me/a.json', { loras: [{ scale: 1 }] }, 'loras.0: expected either file or source'],
    ['me/a.json', { loras: [{ file: 'a', source: 'b' }] }, 'loras.0: expected either file or'],
    ['me/a.json', { base: 'pro' }, 'base: Invalid option'],
    ['me/a.json', { versionAliases: ['a/b'] }, 'versionAliases.0: expected up to 64 letters'],
    ['me/a.json', { createdAt: 'today' }, 'createdAt: Invalid ISO datetime'],
    ['me/A.json', {}, 'expected <owner>/<name>.json of a-z'],
    ['_me/a.json', {}, 'expected <owner>/<name>.json of a-z'],
  ])('in %s as %j is refused with file and key', async (name, content, message) => {
    const folders = makeFolders()
    const file = writeInto(folders.own, name, content)
    const refusal = open(folders)
    await expect(refusal).rejects.toMatchObject({ code: 'config_invalid' })
    await expect(refusal).rejects.toThrow(`${file}: ${message}`)
  })

  test('with a readme of a megabyte is refused', async () => {
    const folders = makeFolders()
    writeInto(folders.own, 'me/a.json', {})
    const file = writeInto(folders.own, 'me/a.md', 'a'.repeat(2 ** 20))
    await expect(open(folders)).rejects.toThrow(`${file}: expected at most`)
  })
})

test('a base that is not there is named', async () => {
  const refusal = openCatalog({
    folders: makeFolders(),
    checkpoints: { ...checkpoints, dev: '/nonexistent' },
  })
  await expect(refusal).rejects.toMatchObject({
    code: 'checkpoint_invalid',
    message: expect.stringContaining('/nonexistent: expected'),
  })
})

describe('adding', () => {
  test('writes the file that the next start reads', async () => {
    const folders = makeFolders()
    const catalog = await open(folders)
    const added = await catalog.add(
      { owner: 'me', name: 'pirate' },
      { triggerWord: 'PIRATE', base: 'schnell', defaults: { num_inference_steps: 4 } },
    )
    expect(catalog.find('me', 'pirate')).toBe(added)
    expect((await open(folders)).find('me', 'pirate')).toEqual(added)
    expect(Date.now() - added.createdAt.getTime()).toBeLessThan(60_000)
    expect(readdirSync(join(folders.own, 'me'))).toEqual(['pirate.json'])
  })

  test('a taken name or a bad one changes nothing', async () => {
    const folders = makeFolders()
    const catalog = await open(folders)
    const add = (owner: string, name: string, fields = {}) => catalog.add({ owner, name }, fields)
    await add('me', 'a')
    await expect(add('me', 'a')).rejects.toThrow('Expected a new name but there is a model me/a')
    await expect(add('bocaaa', 'np')).rejects.toMatchObject({ code: 'conflict' })
    for (const owner of ['..', '.me', 'Me', '', 'a/b', 'a'.repeat(65)])
      await expect(add(owner, 'a')).rejects.toMatchObject({ code: 'invalid_input' })
    await expect(add('me', 'b', { base: 'pro' })).rejects.toMatchObject({
      code: 'invalid_input',
      message: expect.stringMatching(/^base: Invalid option/),
    })
    expect(readdirSync(folders.own, { recursive: true }).sort()).toEqual(['me', 'me/a.json'])
  })

  test('of one name from two places at once succeeds once', async () => {
    const folders = makeFolders()
    const catalogs = await Promise.all([open(folders), open(folders)])
    const results = await Promise.allSettled(
      catalogs.map((catalog) => catalog.add({ owner: 'me', name: 'a' }, {})),
    )
    const refusals = results.filter((result) => result.status === 'rejected')
    expect(refusals.map(({ reason }) => reason.message)).toEqual([
      'Expected a new name but there is a model me/a',
    ])
    expect(readdirSync(join(folders.own, 'me'))).toEqual(['a.json'])
  })
})

test('a source is never a file of this machine', async () => {
  const catalog = await open()
  const lora = join(models, 'tiny/loras/bocaaa--np.safetensors')
  for (const [i, source] of [lora, '../../np.safetensors', './np.safetensors'].entries()) {
    const { loras } = await catalog.add({ owner: 'me', name: `a${i}` }, { loras: [{ source }] })
    expect(loras).toEqual([{ source, scale: 1 }])
  }
})

describe('removing', () => {
  test('takes the file and its readme away', async () => {
    const folders = makeFolders()
    const file = writeInto(folders.own, 'me/a.json', {})
    const readme = writeInto(folders.own, 'me/a.md', 'text')
    const catalog = await open(folders)
    await catalog.remove({ owner: 'me', name: 'a' })
    expect(catalog.find('me', 'a')).toBeUndefined()
    expect([existsSync(file), existsSync(readme)]).toEqual([false, false])
  })

  test('refuses what is bundled, missing, or no name', async () => {
    const catalog = await open()
    const remove = (owner: string, name: string) => catalog.remove({ owner, name })
    await expect(remove('bocaaa', 'np')).rejects.toThrow('but bocaaa/np comes with fluxd')
    await expect(remove('me', 'a')).rejects.toMatchObject({ code: 'not_found' })
    await expect(remove('../../tiny', 'grammar')).rejects.toMatchObject({ code: 'invalid_input' })
    expect(statSync(join(models, 'tiny/grammar.json')).isFile()).toBe(true)
  })
})

test('reloading shows what others have written, and keeps all when that is wrong', async () => {
  const folders = makeFolders()
  const catalog = await open(folders)
  writeInto(folders.own, 'me/a.json', {})
  expect(catalog.find('me', 'a')).toBeUndefined()
  await catalog.reload()
  expect(catalog.find('me', 'a')).toBeDefined()
  const wrong = writeInto(folders.own, 'me/b.json', '{')
  await expect(catalog.reload()).rejects.toThrow(wrong)
  expect(catalog.list()).toHaveLength(7)
  rmSync(wrong)
})

test('refreshing reads again when files came, went or were replaced, and only then', async () => {
  const folders = makeFolders()
  const catalog = await open(folders)
  const bundled = catalog.find('fluxd', 'flux')
  await catalog.refresh()
  expect(catalog.find('fluxd', 'flux')).toBe(bundled)

  const file = writeInto(folders.own, 'me/a.json', {})
  await Promise.all([catalog.refresh(), catalog.refresh()])
  const added = catalog.find('me', 'a')
  expect(added).toBeDefined()
  await catalog.refresh()
  expect(catalog.find('me', 'a')).toBe(added)

  rmSync(file)
  await catalog.refresh()
  expect(catalog.find('me', 'a')).toBeUndefined()
})

test('refreshing reads again what was written over, entry, readme or LoRA, and the version follows', async () => {
  const folders = makeFolders()
  const lora = writeInto(folders.own, 'loras/a.bin', 'weights')
  const entry = { loras: [{ file: '../loras/a.bin' }] }
  writeInto(folders.own, 'me/a.json', entry)
  const catalog = await open(folders)
  const find = async () => {
    await catalog.refresh()
    return catalog.find('me', 'a')!
  }
  const first = await find()
  writeFileSync(lora, 'other weights')
  const second = await find()
  expect(second.loras).toMatchObject([{ sha256: await digestFile(lora) }])
  expect(second.version).not.toBe(first.version)
  expect(await find()).toBe(second)

  writeInto(folders.own, 'me/a.json', { ...entry, description: 'written over' })
  expect(await find()).toMatchObject({ description: 'written over', version: second.version })
  writeInto(folders.own, 'me/a.md', '# A\n')
  expect(await find()).toMatchObject({ readme: '# A\n' })
})

test('refreshing reports a fault once and keeps the catalog', async () => {
  const folders = makeFolders()
  const catalog = await open(folders)
  const wrong = writeInto(folders.own, 'me/b.json', '{')
  await expect(catalog.refresh()).rejects.toThrow(wrong)
  await catalog.refresh()
  expect(catalog.list()).toHaveLength(6)
})

test('what is no entry is passed over', async () => {
  const folders = makeFolders()
  for (const name of ['me/notes.txt', 'me/.draft.json', '.git/a.json'])
    writeInto(folders.own, name, '{')
  writeFileSync(join(folders.own, 'README.json'), '{')
  expect((await open(folders)).list()).toHaveLength(6)
})
