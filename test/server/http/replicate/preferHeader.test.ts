import { describe, expect, test } from 'vitest'
import { ProblemError } from '../../../../src/server/http/replicate/errors.js'
import {
  parseCancelAfter,
  parsePrefer,
} from '../../../../src/server/http/replicate/preferHeader.js'

describe('Prefer', () => {
  test.each([
    ['wait', 60, 'wait'],
    ['wait=5', 5, 'wait=5'],
    ['wait=60', 60, 'wait=60'],
    ['wait=0', 1, 'wait=1'],
    ['wait=300', 60, 'wait=60'],
    ['WAIT = 7', 7, 'wait=7'],
    ['respond-async, wait=2', 2, 'wait=2'],
  ])('%s waits %d s and says %s', (header, waitSeconds, applied) => {
    expect(parsePrefer(header)).toEqual({ waitSeconds, applied })
  })

  test.each([undefined, '', 'respond-async', 'wait=soon', 'wait=-1', 'wait=1.5'])(
    '%s does not wait',
    (header) => {
      expect(parsePrefer(header)).toEqual({ applied: '' })
    },
  )

  test('output=data asks for pictures inside the reply', () => {
    expect(parsePrefer('wait=3, output=data')).toEqual({
      waitSeconds: 3,
      output: 'data',
      applied: 'wait=3, output=data',
    })
    expect(parsePrefer('output=smoke')).toEqual({ applied: '' })
  })
})

describe('Cancel-After', () => {
  test.each([
    [undefined, undefined],
    ['30', 30],
    ['30s', 30],
    ['1m30s', 90],
    ['2h', 7200],
    ['1h1m1s', 3661],
    ['5', 5],
    ['24h', 86400],
  ])('%s is %s seconds', (header, seconds) => {
    expect(parseCancelAfter(header)).toBe(seconds)
  })

  test.each(['', '4', '4s', '25h', 'soon', '1.5m', '-30', '30s1m', '99999999999'])(
    '%j is refused with a sentence',
    (header) => {
      const refused = () => parseCancelAfter(header)
      expect(refused).toThrow(ProblemError)
      expect(refused).toThrow(/Expected Cancel-After to be a duration .* but received/)
    },
  )
})
