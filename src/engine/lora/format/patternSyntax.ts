/**
 * Reads Python's regular expressions into a tree, without what an automaton cannot run: groups
 * that look around or refer back, flags, possessive repetitions.
 * Source: Python, Lib/re/_parser.py.
 */

export type Test = (character: string) => boolean
export type Assertion = (name: string, at: number) => boolean

export type Expression =
  | { readonly kind: 'character'; readonly test: Test }
  | { readonly kind: 'assertion'; readonly holds: Assertion }
  | { readonly kind: 'sequence'; readonly parts: readonly Expression[] }
  | { readonly kind: 'choice'; readonly options: readonly Expression[] }
  | {
      readonly kind: 'repeat'
      readonly part: Expression
      readonly min: number
      readonly max: number
    }

const maxDepth = 50

/** What of a pattern is still to be read. */
type Reader = { readonly text: string; at: number; depth: number }

/** The tree of a pattern. Throws `SyntaxError` for what is none or is not supported. */
export function parsePattern(text: string): Expression {
  const reader: Reader = { text, at: 0, depth: 0 }
  const expression = parseChoice(reader)
  if (reader.at < text.length) throw new SyntaxError('a bracket closes that was not opened')
  return expression
}

function parseChoice(reader: Reader): Expression {
  const options = [parseSequence(reader)]
  while (reader.text[reader.at] === '|') {
    reader.at++
    options.push(parseSequence(reader))
  }
  return options.length === 1 ? options[0]! : { kind: 'choice', options }
}

function parseSequence(reader: Reader): Expression {
  const parts: Expression[] = []
  while (reader.at < reader.text.length && !'|)'.includes(reader.text[reader.at]!))
    parts.push(parseRepeat(reader, parseAtom(reader)))
  return { kind: 'sequence', parts }
}

const anyNumber: Readonly<Record<string, readonly [number, number]>> = {
  '*': [0, Number.POSITIVE_INFINITY],
  '+': [1, Number.POSITIVE_INFINITY],
  '?': [0, 1],
}

function parseRepeat(reader: Reader, part: Expression): Expression {
  const range = parseRange(reader)
  if (!range) return part
  const [min, max] = range
  if (min > max) throw new SyntaxError(`a part is repeated ${min} to ${max} times`)
  // A lazy repetition matches the same names.
  if (reader.text[reader.at] === '?') reader.at++
  else if ('*+{'.includes(reader.text[reader.at] ?? ' ') && parseRange({ ...reader }))
    throw new SyntaxError('a repetition is repeated or possessive')
  return { kind: 'repeat', part, min, max }
}

function parseRange(reader: Reader): readonly [number, number] | undefined {
  const simple = anyNumber[reader.text[reader.at] ?? '']
  if (simple) {
    reader.at++
    return simple
  }
  const counted = /^\{(\d{0,6})(,?)(\d{0,6})\}/.exec(reader.text.slice(reader.at, reader.at + 20))
  if (!counted || counted[0] === '{}') return undefined
  reader.at += counted[0].length
  const [, min = '', comma, max = ''] = counted
  if (!comma) return [Number(min), Number(min)]
  return [Number(min), max === '' ? Number.POSITIVE_INFINITY : Number(max)]
}

function parseAtom(reader: Reader): Expression {
  const character = reader.text[reader.at++]!
  switch (character) {
    case '(':
      return parseGroup(reader)
    case '[':
      return { kind: 'character', test: parseClass(reader) }
    case '\\':
      return parseEscape(reader)
    case '.':
      return { kind: 'character', test: (each) => each !== '\n' }
    case '^':
      return { kind: 'assertion', holds: isStart }
    case '$':
      return { kind: 'assertion', holds: isEnd }
    case '*':
    case '+':
    case '?':
      throw new SyntaxError(`${character} follows nothing that it could repeat`)
    default:
      return literal(character)
  }
}

const literal = (character: string): Expression => ({
  kind: 'character',
  test: (each) => each === character,
})

const isStart: Assertion = (_, at) => at === 0
const isEnd: Assertion = (name, at) => at === name.length
const isBorder: Assertion = (name, at) => isWord(name[at - 1] ?? ' ') !== isWord(name[at] ?? ' ')

function parseGroup(reader: Reader): Expression {
  if (reader.depth++ > maxDepth) throw new SyntaxError(`groups nest deeper than ${maxDepth}`)
  const start = /^\?(?::|P<\w+>)/.exec(reader.text.slice(reader.at, reader.at + 100))
  if (start) reader.at += start[0].length
  else if (reader.text[reader.at] === '?')
    throw new SyntaxError('groups that look around, set flags or refer back are not supported')
  const inner = parseChoice(reader)
  if (reader.text[reader.at++] !== ')') throw new SyntaxError('a group is not closed')
  reader.depth--
  return inner
}

const isDigit: Test = (each) => each >= '0' && each <= '9'
const isWord: Test = (each) => /[\p{L}\p{N}_]/u.test(each)
const isSpace: Test = (each) => /\s/.test(each)
const not =
  (test: Test): Test =>
  (each) =>
    !test(each)

const classes: Readonly<Record<string, Test>> = {
  d: isDigit,
  D: not(isDigit),
  w: isWord,
  W: not(isWord),
  s: isSpace,
  S: not(isSpace),
}

const assertions: Readonly<Record<string, Assertion>> = {
  A: isStart,
  Z: isEnd,
  b: isBorder,
  B: (name, at) => !isBorder(name, at),
}

const controls: Readonly<Record<string, string>> = { n: '\n', t: '\t', r: '\r', f: '\f', v: '\v' }

function parseEscape(reader: Reader): Expression {
  const holds = assertions[reader.text[reader.at] ?? '']
  if (!holds) return { kind: 'character', test: parseEscapedTest(reader) }
  reader.at++
  return { kind: 'assertion', holds }
}

function parseEscapedTest(reader: Reader): Test {
  const character = reader.text[reader.at++]
  if (character === undefined) throw new SyntaxError('a backslash ends the pattern')
  const test = classes[character]
  if (test) return test
  const control = controls[character]
  if (control === undefined && /[a-z0-9]/i.test(character))
    throw new SyntaxError(`\\${character} is not supported`)
  return (each) => each === (control ?? character)
}

function parseClass(reader: Reader): Test {
  const isNegated = reader.text[reader.at] === '^'
  if (isNegated) reader.at++
  const tests: Test[] = []
  do tests.push(parseClassMember(reader))
  while (reader.at < reader.text.length && reader.text[reader.at] !== ']')
  if (reader.text[reader.at++] !== ']') throw new SyntaxError('a set of characters is not closed')
  const isMember: Test = (each) => tests.some((test) => test(each))
  return isNegated ? not(isMember) : isMember
}

function parseClassMember(reader: Reader): Test {
  const character = reader.text[reader.at++]
  if (character === undefined) throw new SyntaxError('a set of characters is not closed')
  if (character === '\\') return parseEscapedTest(reader)
  const [dash, last] = [reader.text[reader.at], reader.text[reader.at + 1]]
  if (dash !== '-' || last === undefined || last === ']') return (each) => each === character
  reader.at += 2
  if (last === '\\') throw new SyntaxError('a range that ends in an escape is not supported')
  if (last < character) throw new SyntaxError(`the range ${character}-${last} runs backwards`)
  return (each) => each >= character && each <= last
}
