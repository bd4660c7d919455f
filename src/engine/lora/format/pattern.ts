/**
 * The patterns of PEFT's rank_pattern and alpha_pattern, which are Python regular expressions from
 * a stranger's file. They are run as nondeterministic automata: time grows with the length of the
 * name times that of the pattern, never faster (Thompson, CACM 11(6), 1968).
 * Source: peft, utils/other.py, get_pattern_key: `(.*\.)?(pattern)$` from the name's beginning.
 */
import { type Assertion, type Expression, parsePattern, type Test } from './patternSyntax.js'

/** Whether a module's name, from its beginning or after one of its dots, ends in the pattern. */
export type NamePattern = {
  readonly matches: (name: string) => boolean
  /** Steps of the automaton, for limits on a file's patterns together. */
  readonly size: number
}

type Step =
  | { readonly kind: 'character'; readonly test: Test }
  | { readonly kind: 'assertion'; readonly holds: Assertion }
  | { readonly kind: 'fork'; readonly to: readonly number[] }
  | { readonly kind: 'end' }

const maxLength = 1000
const maxSteps = 2000

/** The pattern as an automaton. Throws `SyntaxError` for what is no pattern or is not supported. */
export function compilePattern(pattern: string): NamePattern {
  if (pattern.length > maxLength)
    throw new SyntaxError(
      `expected at most ${maxLength} characters in a pattern but there are ${pattern.length}`,
    )
  const steps = assemble(parsePattern(pattern))
  return { matches: (name) => run(steps, name), size: steps.length }
}

function run(steps: readonly Step[], name: string): boolean {
  let active = new Set<number>()
  for (let at = 0; at <= name.length; at++) {
    if (at === 0 || name[at - 1] === '.') follow(steps, 0, name, at, active)
    if (at === name.length) break
    const next = new Set<number>()
    for (const index of active) {
      const step = steps[index]!
      if (step.kind === 'character' && step.test(name[at]!))
        follow(steps, index + 1, name, at + 1, next)
    }
    active = next
  }
  return active.has(steps.length - 1)
}

/** Adds all that can be reached from step `first` without a character; each step once. */
function follow(
  steps: readonly Step[],
  first: number,
  name: string,
  at: number,
  reached: Set<number>,
) {
  const open = [first]
  while (open.length > 0) {
    const index = open.pop()!
    if (reached.has(index)) continue
    reached.add(index)
    const step = steps[index]!
    if (step.kind === 'fork') open.push(...step.to)
    if (step.kind === 'assertion' && step.holds(name, at)) open.push(index + 1)
  }
}

function assemble(expression: Expression): readonly Step[] {
  const steps: Step[] = []
  const put = (step: Step) => {
    if (steps.length >= maxSteps)
      throw new SyntaxError(`expected a pattern of at most ${maxSteps} steps but it has more`)
    return steps.push(step) - 1
  }
  append(expression, steps, put)
  put({ kind: 'end' })
  return steps
}

function append(expression: Expression, steps: Step[], put: (step: Step) => number): void {
  switch (expression.kind) {
    case 'character':
    case 'assertion':
      put(expression)
      return
    case 'sequence':
      for (const part of expression.parts) append(part, steps, put)
      return
    case 'choice':
      appendChoice(expression.options, steps, put)
      return
    case 'repeat':
      appendRepeat(expression, steps, put)
      return
    default:
      expression satisfies never
  }
}

function appendChoice(options: readonly Expression[], steps: Step[], put: (step: Step) => number) {
  const fork = put({ kind: 'fork', to: [] })
  const starts: number[] = []
  const exits: number[] = []
  for (const option of options) {
    starts.push(steps.length)
    append(option, steps, put)
    exits.push(put({ kind: 'fork', to: [] }))
  }
  steps[fork] = { kind: 'fork', to: starts }
  for (const exit of exits) steps[exit] = { kind: 'fork', to: [steps.length] }
}

function appendRepeat(
  { part, min, max }: Extract<Expression, { kind: 'repeat' }>,
  steps: Step[],
  put: (step: Step) => number,
) {
  if (isEmpty(part)) return
  for (let i = 0; i < min; i++) append(part, steps, put)
  if (max === Number.POSITIVE_INFINITY) {
    const loop = put({ kind: 'fork', to: [] })
    append(part, steps, put)
    put({ kind: 'fork', to: [loop] })
    steps[loop] = { kind: 'fork', to: [loop + 1, steps.length] }
    return
  }
  const exits: number[] = []
  for (let i = min; i < max; i++) {
    exits.push(put({ kind: 'fork', to: [] }))
    append(part, steps, put)
  }
  for (const exit of exits) steps[exit] = { kind: 'fork', to: [exit + 1, steps.length] }
}

// An empty part adds no step, so copies of it would escape the limit.
function isEmpty(expression: Expression): boolean {
  if (expression.kind === 'sequence') return expression.parts.every(isEmpty)
  return expression.kind === 'repeat' && (expression.max === 0 || isEmpty(expression.part))
}
