/** PEFT's patterns match what Python's `re` matches of them, in time that no pattern stretches. */
import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { compilePattern } from '../../../../src/engine/lora/format/pattern.js'
import { fixturePath } from '../../../goldens.js'

/** Written by test/fixtures/makers/make_lora_patterns.py. */
const { names, cases } = JSON.parse(readFileSync(fixturePath('lora/patterns.json'), 'utf8')) as {
  readonly names: readonly string[]
  readonly cases: readonly { readonly pattern: string; readonly matches: string[] | null }[]
}

test.each(cases)('$pattern', ({ pattern, matches }) => {
  if (matches === null) expect(() => compilePattern(pattern)).toThrow(SyntaxError)
  else expect(names.filter(compilePattern(pattern).matches)).toEqual(matches)
})

describe('a pattern is refused', () => {
  test.each([
    ['that looks ahead', '(?=x)', /look around, set flags or refer back/],
    ['that looks behind', '(?<=x)y', /look around/],
    ['with a flag', '(?i)x', /look around, set flags/],
    ['that refers back', String.raw`(x)\1`, /\\1 is not supported/],
    ['with a possessive repetition', 'x*+', /repeated or possessive/],
    ['of too many characters', 'x'.repeat(1001), /at most 1000 characters/],
    ['of too many steps', 'x{3000}', /at most 2000 steps/],
    ['whose repetitions multiply', '((x{100}){100}){100}', /at most 2000 steps/],
    ['whose groups nest too deep', `${'('.repeat(60)}x${')'.repeat(60)}`, /nest deeper than 50/],
  ])('%s', (_, pattern, message) => {
    expect(() => compilePattern(pattern)).toThrow(message)
  })
})

// A backtracking matcher would need 2^300 steps for the first, and 2^50 to compile the others.
test.each([
  ['(a+)+b', 300],
  ['(a|a)*b', 300],
  ['(.*)*(.*)*b', 300],
  [`${'('.repeat(50)}a${')?'.repeat(50)}b`, 300],
  [`${'('.repeat(50)}${'){9}'.repeat(50)}b`, 300],
])('%s is matched step by step', (pattern, length) => {
  expect(compilePattern(pattern).matches('a'.repeat(length))).toBe(false)
})
