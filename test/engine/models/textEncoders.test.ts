import { expect, test } from 'vitest'
import { createEmbeddingCache } from '../../../src/engine/models/textEncoders.js'
import { floatTensor } from '../../../src/safetensors/tensor.js'

function countEncodings() {
  const encoded: string[] = []
  const cached = createEmbeddingCache()
  const encode = (prompt: string) =>
    cached(prompt, async () => {
      encoded.push(prompt)
      return floatTensor(Float32Array.of(encoded.length), [1])
    })
  return { encode, encoded }
}

test('a prompt that was just encoded is not encoded again', async () => {
  const { encode, encoded } = countEncodings()
  const first = await encode('a fox')
  await encode('a hare')
  expect(await encode('a fox')).toBe(first)
  expect(encoded).toEqual(['a fox', 'a hare'])
})

test('what was not asked for lately is forgotten', async () => {
  const { encode, encoded } = countEncodings()
  await encode('often')
  for (let i = 0; i < 20; i++) {
    await encode(`once ${i}`)
    await encode('often')
  }
  await encode('once 0')
  expect(encoded.filter((prompt) => prompt === 'often')).toHaveLength(1)
  expect(encoded.filter((prompt) => prompt === 'once 0')).toHaveLength(2)
})

test('a prompt that could not be encoded is tried again', async () => {
  let tries = 0
  const cached = createEmbeddingCache()
  const encode = (prompt: string) =>
    cached(prompt, async () => {
      if (tries++ === 0) throw new Error('out of memory')
      return floatTensor(Float32Array.of(1), [1])
    })
  await expect(encode('a fox')).rejects.toThrow('out of memory')
  await expect(encode('a fox')).resolves.toBeDefined()
})
