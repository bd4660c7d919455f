import { appendFileSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
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
  ['empty', () => writeFileSync(path, ''), /expected a safetensors file but it has 0 bytes/],
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
    () => writeRaw(path, { a: entry(0, 4, [1], 'F4') }, new Uint8Array(4)),
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
    /but this is a GGUF file/,
  ],
  [
    'that is a pickle',
    () => writeFileSync(path, Buffer.from('800495a10f000000', 'hex')),
    /but this is a Python pickle/,
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
