/** docs/contract.md: the ids that comments cite are rules, and the files that rules name are there. */
import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'

const root = join(import.meta.dirname, '..')
const page = readFileSync(join(root, 'docs/contract.md'), 'utf8')
const ruleId = /\b[CF]-\d+\.\d+\b/g

const rules = page
  .split('\n')
  .filter((line) => /^\| [CF]-/.test(line))
  .map((line) => {
    const [id, , files, tests] = line.split(' | ').map((cell) => cell.replace(/^\| | \|$/g, ''))
    return { id: id!, files: paths(files), tests: paths(tests) }
  })

function paths(cell: string | undefined): string[] {
  return [...(cell ?? '').matchAll(/`([^`]+)`/g)].map((match) => match[1]!)
}

function trackedFiles(...folders: string[]): string[] {
  const list = execFileSync('git', ['ls-files', '-z', '-co', '--exclude-standard', ...folders], {
    cwd: root,
    encoding: 'utf8',
  })
  return list.split('\0').filter((path) => /\.(ts|cc|h|cu|json|py)$/.test(path))
}

test('every rule has an id of its own, a file and a test, and all of them exist', () => {
  expect(rules.length).toBeGreaterThan(100)
  expect(new Set(rules.map(({ id }) => id)).size).toBe(rules.length)
  const missing = rules.flatMap(({ id, files, tests }) =>
    [...files, ...tests].filter((path) => !existsSync(join(root, path))).map((path) => [id, path]),
  )
  expect(missing).toEqual([])
  for (const { id, files, tests } of rules) {
    expect(files, `files of ${id}`).not.toEqual([])
    expect(tests, `tests of ${id}`).not.toEqual([])
    expect(tests.filter((path) => !path.endsWith('.test.ts'))).toEqual([])
  }
})

test('every id that is cited is a rule, and no page outside of the repository is cited', () => {
  const known = new Set(rules.map(({ id }) => id))
  const cited = trackedFiles('src', 'test', 'native').flatMap((path) => {
    if (!existsSync(join(root, path))) return []
    const text = readFileSync(join(root, path), 'utf8')
    const outside = /replicate-contract|\b(flux|onnxruntime|h100|peers)\.md\b/.exec(
      path === 'test/contractRules.test.ts' ? '' : text,
    )
    expect(outside?.[0], path).toBeUndefined()
    return [...text.matchAll(ruleId)].map(([id]) => ({ id, path }))
  })
  expect(cited.filter(({ id }) => !known.has(id))).toEqual([])
  expect(cited.length).toBeGreaterThan(30)
})

test('all seventy traps are rules', () => {
  const ids = rules.map(({ id }) => id)
  for (let trap = 1; trap <= 70; trap++) expect(ids).toContain(`C-5.${trap}`)
})
