import { describe, expect, test } from 'vitest'
import { redact, redactInput } from '../../src/net/redact.js'

const civitai = 'https://civitai.com/api/download/models/7?type=Model&format=SafeTensor'

describe('a reference in a log, a listing or an error', () => {
  test.each([
    ['fofr/flux', 'fofr/flux'],
    ['../own/a.safetensors', '../own/a.safetensors'],
    ['data:application/x-tar;base64,c2VjcmV0', 'data:application/x-tar…'],
    ['DATA:;base64,c2VjcmV0', 'DATA:…'],
    ['https://e.com/a.safetensors', 'https://e.com/a.safetensors'],
    ['https://e.com/a.safetensors?token=secret', 'https://e.com/a.safetensors?token=***'],
    ['https://e.com/a.safetensors?secret', 'https://e.com/a.safetensors?***'],
    ['https://e.com/a.safetensors?c2VjcmU=', 'https://e.com/a.safetensors?***'],
    ['https://e.com/a.safetensors?a=1&sig=secret', 'https://e.com/a.safetensors?a=***&sig=***'],
    ['https://e.com/a.safetensors?tok%65n=secret', 'https://e.com/a.safetensors?tok%65n=***'],
    ['https://e.com/a?type=a=secret?b', 'https://e.com/a?type=a=secret?b'],
    ['https://e.com/a.safetensors#secret', 'https://e.com/a.safetensors'],
    ['https://e.com/a#b?token=secret', 'https://e.com/a'],
    ['https://u:secret@e.com/a.safetensors', 'https://***@e.com/a.safetensors'],
    ['https://u:se@cret@e.com/a@b', 'https://***@e.com/a@b'],
    ['https://secret@e.com', 'https://***@e.com'],
    ['hf://u:secret@e.com/a', 'hf://***@e.com/a'],
    [`${civitai}&token=secret`, `${civitai}&token=***`],
    ['civitai.com/models/1?token=secret', 'civitai.com/models/1?token=***'],
    ['https://b.s3.x/a?X-Amz-Signature=secret', 'https://b.s3.x/a?X-Amz-Signature=***'],
  ])('%s reads %s', (reference, shown) => {
    expect(redact(reference)).toBe(shown)
  })

  test('is cut at a length that fits on a line', () => {
    const long = `https://e.com/${'a'.repeat(5000)}?${'b'.repeat(5000)}=${'c'.repeat(5000)}`
    expect(redact(long).length).toBeLessThan(300)
  })
})

describe('the echo of an input', () => {
  test.each([
    [{ hf_api_token: 'secret' }, { hf_api_token: '[REDACTED]' }],
    [{ Authorization: 'Bearer secret' }, { Authorization: '[REDACTED]' }],
    [{ apiKey: 'secret' }, { apiKey: '[REDACTED]' }],
    [{ secrets: ['secret'] }, { secrets: '[REDACTED]' }],
    [
      { token: 1, return_token: true },
      { token: 1, return_token: true },
    ],
    [{ auth: { token: 'secret', user: 'u' } }, { auth: { token: '[REDACTED]', user: 'u' } }],
    [{ loras: ['https://e.com/x?key=secret'] }, { loras: ['https://e.com/x?key=***'] }],
    [{ lora: 'https://e.com/x?a=1&token=secret#f' }, { lora: 'https://e.com/x?a=***&token=***' }],
    [{ lora: 'https://me:secret@e.com/x' }, { lora: 'https://***@e.com/x' }],
    [{ lora: 'e.com/x?access_token=secret' }, { lora: 'e.com/x?access_token=***' }],
    [{ image: 'https://cdn.example/a.png?w=512' }, { image: 'https://cdn.example/a.png?w=512' }],
    [{ image: 'data:text/plain,?token=t' }, { image: 'data:text/plain,?token=t' }],
    [{ prompt: 'a token = luck, right?' }, { prompt: 'a token = luck, right?' }],
    [
      { prompt: 'a poster that says https://u:secret@e.com/?sig=secret in red' },
      { prompt: 'a poster that says https://***@e.com/?sig=*** in red' },
    ],
    [
      { prompt: null, seed: 1 },
      { prompt: null, seed: 1 },
    ],
  ])('of %j keeps no secret', (sent, echoed) => {
    expect(redactInput(sent)).toEqual(echoed)
  })

  test('keeps a URL whole where it holds no secret, however long it is', () => {
    const image = `https://e.com/${'a'.repeat(5000)}`
    expect(redactInput({ image })).toEqual({ image })
  })
})
