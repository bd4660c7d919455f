/** The README and the pages of docs/ say what the code says, and lead to what is there. */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { configTable } from '../src/config/settings.js'
import { FluxInput } from '../src/contract/input.js'

const root = join(import.meta.dirname, '..')
const read = (path: string) => readFileSync(join(root, path), 'utf8')
const readme = read('README.md')
const pages = [
  'README.md',
  'CONTRIBUTING.md',
  'CHANGELOG.md',
  'models/README.md',
  'native/README.md',
  ...readdirSync(join(root, 'docs')).map((name) => `docs/${name}`),
]

test('the table of settings is the one the code has', () => {
  const rows = configTable().map(
    ({ name, fallback, meaning }) =>
      `| \`${name}\` | ${fallback === '' ? '' : `\`${fallback}\``} | ${meaning} |`,
  )
  const table = read('docs/settings.md')
    .split('\n')
    .filter((line) => line.startsWith('| `FLUXD_'))
  expect(table).toEqual(rows)
})

test('the contract names every field of the input', () => {
  const contract = read('docs/contract.md')
  for (const field of Object.keys(FluxInput.shape)) expect(contract).toContain(`\`${field}\``)
})

test('the README has at most 120 lines, and its first command', () => {
  expect(readme.split('\n').length).toBeLessThanOrEqual(120)
  expect(readme).toMatch(/^ {4}npm install && npm start/m)
})

test('no page leads to another project’s package of the same name', () => {
  for (const page of pages)
    expect(read(page), page).not.toMatch(/npx (-y )?fluxd|npm i(nstall)? (-g )?fluxd/)
})

describe.each(pages)('%s', (page) => {
  const text = read(page)

  test('names scripts that the package has', () => {
    const { scripts } = JSON.parse(read('package.json'))
    for (const [, script] of text.matchAll(/npm run (?:--\S+ )?([\w:]+)/g))
      expect(scripts).toHaveProperty([script!])
  })

  test('links to files that are there', () => {
    const targets = [...text.matchAll(/\]\(([^)\s]+)\)/g)].map((match) => match[1]!)
    const local = targets.filter((target) => !/^(https?:|#)/.test(target))
    const missing = local.filter(
      (target) => !existsSync(join(root, dirname(page), target.replace(/#.*/, ''))),
    )
    expect(missing).toEqual([])
  })

  test('names files of the code that are there', () => {
    const named = [...text.matchAll(/`((?:src|test|native|docker)\/[\w./-]+\.\w+)`/g)]
    const missing = named.map((match) => match[1]!).filter((path) => !existsSync(join(root, path)))
    expect(missing).toEqual([])
  })
})

test('.ci/run calls the test command', () => {
  expect(read('CONTRIBUTING.md')).toContain('`npm test`')
  expect(read('.ci/run')).toMatch(/^npm test$/m)
})
