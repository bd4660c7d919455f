import { PassThrough } from 'node:stream'
import { pino } from 'pino'
import { expect, test } from 'vitest'
import { createTerminalLog, formatLine } from '../../src/telemetry/terminalLog.js'

function logTo(level: string, log: (logger: pino.Logger) => void): string {
  const stream = new PassThrough()
  log(pino({ level }, createTerminalLog(stream)))
  return String(stream.read() ?? '')
}

test('a line has the time, the text and the fields that matter', () => {
  expect(
    logTo('info', (log) => log.info({ model: 'a/b', seconds: 1.5 }, 'prediction ended')),
  ).toMatch(/^\d\d:\d\d:\d\d prediction ended {2}model=a\/b {2}seconds=1\.5\n$/)
})

test.each(['warn', 'error', 'fatal'] as const)('a line of level %s begins with it', (level) => {
  const name = { warn: 'warning', error: 'error', fatal: 'fatal' }[level]
  expect(logTo('info', (log) => log[level]('text'))).toMatch(
    new RegExp(`^\\d\\d:\\d\\d:\\d\\d ${name}: text\\n$`),
  )
})

test('an error is its message, and long fields are left out', () => {
  const fields = { err: new Error('broken'), config: 'x'.repeat(1000), id: 'a' }
  expect(logTo('info', (log) => log.error(fields, 'failed'))).toMatch(/failed {2}broken {2}id=a\n$/)
})

test('control characters of users do not reach the terminal', () => {
  expect(logTo('info', (log) => log.info({ url: '/\x1b[2Ja\r\nb' }, 'request\x07'))).toMatch(
    /request {3}url=\/ \[2Ja b\n$/,
  )
})

test('fields of a child are in its lines', () => {
  expect(logTo('info', (log) => log.child({ prediction: 'p1' }).info('started'))).toMatch(
    /started {2}prediction=p1\n$/,
  )
})

test.each(['no JSON\n', '[1', '"text"\n', ''])('%j stays as it is', (line) => {
  expect(formatLine(line)).toBe(line)
})
