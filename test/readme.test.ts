/** The README says what the code says. */
import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { configTable } from '../src/config/settings.js'
import { FluxInput } from '../src/contract/input.js'

const read = (path: string) => readFileSync(new URL(`../${path}`, import.meta.url), 'utf8')
const readme = read('README.md')

test('its table of settings is the one the code has', () => {
  const rows = configTable().map(
    ({ name, fallback, meaning }) =>
      `| \`${name}\` | ${fallback === '' ? '' : `\`${fallback}\``} | ${meaning} |`,
  )
  const table = readme.split('\n').filter((line) => line.startsWith('| `FLUXD_'))
  expect(table).toEqual(rows)
})

test('it names every field of the contract', () => {
  for (const field of Object.keys(FluxInput.shape)) expect(readme).toContain(`\`${field}`)
})

test('its first commands are scripts of the package', () => {
  const { scripts } = JSON.parse(read('package.json'))
  expect(readme).toMatch(/^ {4}npm install && npm start/m)
  for (const [, script] of readme.matchAll(/`npm run ([\w:]+)`/g))
    expect(scripts).toHaveProperty(script!)
})

test('.ci/run calls the test command it names', () => {
  expect(readme).toMatch(/^ {4}npm test/m)
  expect(read('.ci/run')).toMatch(/^npm test$/m)
})
