import { appendFileSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { expect, test } from 'vitest'
import { openSafetensors, sliceRows } from '../../src/safetensors/read.js'
import { temporaryFolder, writeRaw, writeTensors } from '../weightFiles.js'

const folder = temporaryFolder()
const path = join(folder, 'weights.safetensors')
const shapes = { a: [2, 3], b: [4] }
const sound = () => writeTensors(path, shapes, (name) => new Float32Array(name === 'a' ? 6 : 4))
const entry = (begin: number, end: number, shape = [(end - begin) / 4], dtype = 'F32') => ({
  dtype,
  shape,
  data_offsets: [begin, end],
})

test('a sound file gives dtype, shape and place of every tensor', () => {
  const { tensors } = openSafetensors(sound())
  const dataStart = readFileSync(path).length - 40
  expect([...tensors.values()]).toEqual([
    { name: 'a', file: path, dtype: 'F32', shape: [2, 3], offset: dataStart, byteLength: 24 },
    { name: 'b', file: path, dtype: 'F32', shape: [4], offset: dataStart + 24, byteLength: 16 },
  ])
})

test('rows of a tensor are a slice of its bytes', () => {
  const a = openSafetensors(sound()).tensors.get('a')!
  expect(sliceRows(a, 1, 2)).toMatchObject({ shape: [1, 3], offset: a.offset + 12, byteLength: 12 })
  expect(() => sliceRows(a, 1, 3)).toThrow(/a has 2 rows but rows 1 to 3 are needed/)
})

test('metadata is kept', () => {
  const file = writeRaw(path, { __metadata__: { format: 'pt' } }, new Uint8Array())
  expect(openSafetensors(file).metadata).toEqual({ format: 'pt' })
})

test.each<[string, () => void, RegExp]>([
  ['missing', () => {}, /no\.safetensors: expected a readable safetensors file/],
  [
    'empty',
    () => writeFileSync(path, ''),
    /expected a safetensors file but it is only 0 bytes long$/,
  ],
  [
    'truncated',
    () => truncateSync(sound(), readFileSync(path).length - 4),
    /tensor b ends at byte 40 but the file holds \d+ bytes of data; is it truncated/,
  ],
  [
    'cut in its header',
    () => truncateSync(sound(), 20),
    /the header needs \d+ bytes but the file has 20; is it truncated/,
  ],
  [
    'followed by other bytes',
    () => appendFileSync(sound(), 'xx'),
    /expected the data to end at byte \d+ but the file has \d+/,
  ],
  [
    'of a header that is no JSON',
    () => writeRaw(path, '{"a":', new Uint8Array()),
    /expected JSON in the safetensors header/,
  ],
  [
    'of a header that is a list',
    () => writeRaw(path, '[]', new Uint8Array()),
    /expected a JSON object/,
  ],
  [
    'of an unknown dtype',
    () => writeRaw(path, { a: entry(0, 4, [1], 'F5') }, new Uint8Array(4)),
    /tensor a: .*dtype/s,
  ],
  [
    'of overlapping tensors',
    () => writeRaw(path, { a: entry(0, 8), b: entry(4, 12) }, new Uint8Array(12)),
    /tensor b starts at byte \d+ and overlaps/,
  ],
  [
    'with a gap',
    () => writeRaw(path, { a: entry(0, 4), b: entry(8, 12) }, new Uint8Array(12)),
    /tensor b starts at byte \d+ and leaves a gap/,
  ],
  [
    'of a shape that does not fit its bytes',
    () => writeRaw(path, { a: entry(0, 8, [3]) }, new Uint8Array(8)),
    /a is F32 \[3\] and needs 12 bytes but its offsets span 8/,
  ],
  [
    'of negative offsets',
    () => writeRaw(path, { a: entry(-4, 0, [1]) }, new Uint8Array(4)),
    /tensor a: .*data_offsets/s,
  ],
  [
    'with more tensors than a model has',
    () => {
      const names = Array.from({ length: 50_001 }, (_, i) => [i, entry(0, 0, [0])])
      writeRaw(path, Object.fromEntries(names), new Uint8Array())
    },
    /: expected at most 50000 tensors but there are 50001$/,
  ],
  [
    'with a name that would fill the log',
    () => writeRaw(path, { ['n'.repeat(301)]: entry(0, 4) }, new Uint8Array(4)),
    /: expected tensor names of 1 to 300 .* but one of 301 begins with "n{50}"$/,
  ],
  [
    'with a name that would move the cursor',
    () => writeRaw(path, { 'a\x1b[2J': entry(0, 4) }, new Uint8Array(4)),
    /none of them a control character, but one of 5 begins with "a\\u001b\[2J"$/,
  ],
  [
    'with more dimensions than any tensor',
    () => writeRaw(path, { a: entry(0, 4, Array(9).fill(1)) }, new Uint8Array(4)),
    /tensor a: shape: Too big: expected array to have <=8 items$/,
  ],
  [
    'that is a GGUF file',
    () => writeFileSync(path, 'GGUF\x03\0\0\0\0\0'),
    /but it is a GGUF file$/,
  ],
  [
    'that is a pickle',
    () => writeFileSync(path, Buffer.from('800495a10f000000', 'hex')),
    /but it is a Python pickle/,
  ],
  [
    'that is a web page',
    () => writeFileSync(path, '\n<!DOCTYPE html><html><body>Sign in</body></html>'),
    /but it is a web page \(HTML\)$/,
  ],
  [
    'that is XML',
    () => writeFileSync(path, '<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>'),
    /but it is an XML text$/,
  ],
  ['that is JSON', () => writeFileSync(path, '{"error": "not found"}'), /but it is a JSON text$/],
  [
    'that is a text',
    () => writeFileSync(path, 'Entry not found, it moved somewhere else'),
    /but it is a text$/,
  ],
  [
    'that is a zipped pickle',
    () => writeFileSync(path, 'PK\x03\x04\0\0\x08\x08\0\0archive/data.pkl'),
    /but it is a Python pickle or another zip archive/,
  ],
  [
    'that is a tar',
    () => writeFileSync(path, `lora/${'\0'.repeat(252)}ustar\0${'\0'.repeat(249)}`),
    /but it is an archive \(tar\)$/,
  ],
  [
    'that is compressed',
    () => writeFileSync(path, gzipSync(Buffer.alloc(100))),
    /but it is an archive \(gzip\)$/,
  ],
  [
    'that is an image',
    () => writeFileSync(path, '\x89PNG\r\n\x1a\n\0\0', 'latin1'),
    /but it is an image or a video$/,
  ],
  [
    'of a header that nests without end',
    () =>
      writeRaw(path, `{"a":${'['.repeat(1_000_000)}${']'.repeat(1_000_000)}}`, new Uint8Array()),
    /: expected a safetensors header but it nests deeper than 4 levels$/,
  ],
  [
    'of more metadata than a trainer writes',
    () => {
      const __metadata__ = Object.fromEntries(Array.from({ length: 10_001 }, (_, i) => [i, '']))
      writeRaw(path, { __metadata__ }, new Uint8Array())
    },
    /: expected at most 10000 keys in __metadata__ but there are 10001$/,
  ],
  [
    'of a header that holds more values than 50,000 tensors',
    () => writeRaw(path, `{"a":[${'0,'.repeat(2_000_000)}0]}`, new Uint8Array()),
    /expected a header of at most 50000 tensors and 10000 keys in __metadata__ but it holds more$/,
  ],
  [
    'that is a Git LFS pointer',
    () => writeFileSync(path, 'version https://git-lfs'),
    /git lfs pull/,
  ],
  [
    'with a header length beyond reason',
    () => writeFileSync(path, Buffer.alloc(16, 0x7f)),
    /its header would have \d+ bytes/,
  ],
])('a file %s is refused by name', (fault, make, message) => {
  make()
  const file = fault === 'missing' ? join(folder, 'no.safetensors') : path
  expect(() => openSafetensors(file)).toThrow(message)
})

test.each([
  [640, 'whose length begins as a pickle does'],
  [35615, 'whose length begins as gzip does'],
  [0x5a4d, 'whose length begins as a program does'],
  [123, 'whose length begins as JSON does'],
])('a header of %i bytes, %s, is read', (length) => {
  const head = JSON.stringify({ a: entry(0, 4) })
  writeRaw(path, head.padEnd(length), new Uint8Array(4))
  expect(openSafetensors(path).tensors.size).toBe(1)
})

test('brackets and commas within strings do not count', () => {
  const __metadata__ = { notes: `"\\${'[{,'.repeat(3_000_000)}` }
  writeRaw(path, { __metadata__ }, new Uint8Array())
  expect(openSafetensors(path).metadata).toEqual(__metadata__)
})
