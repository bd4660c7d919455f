/** Every form of a LoRA reference, and the words for what is none: the table of the contract. */
import { expect, test } from 'vitest'
import { type LoraSource, parseLoraSource } from '../../src/loras/reference.js'

const hub = (owner: string, repo: string, file?: string): LoraSource => ({
  kind: 'huggingface',
  owner,
  repo,
  file,
})
const replicate = (owner: string, model: string, version?: string): LoraSource => ({
  kind: 'replicate',
  owner,
  model,
  version,
})
const page = (id: string): LoraSource => ({ kind: 'civitaiPage', id })
const file = (url: string): LoraSource => ({ kind: 'file', url })

const accepted: readonly (readonly [string, LoraSource])[] = [
  [
    'data:application/x-tar;base64,AAAA',
    { kind: 'data', uri: 'data:application/x-tar;base64,AAAA' },
  ],
  ['huggingface.co/alvdansen/frosting_lane', hub('alvdansen', 'frosting_lane')],
  ['huggingface.co/alvdansen/frosting_lane/', hub('alvdansen', 'frosting_lane')],
  ['http://huggingface.co/a/b', hub('a', 'b')],
  ['https://huggingface.co/a/b', hub('a', 'b')],
  ['https://huggingface.co/a/b/lora.safetensors', hub('a', 'b', 'lora.safetensors')],
  ['huggingface.co/a/b/my lora v1.2.safetensors/', hub('a', 'b', 'my lora v1.2.safetensors')],
  ['civitai.com/models/670378', page('670378')],
  ['https://civitai.com/models/670378/', page('670378')],
  ['https://civitai.com/models/670378/flux-pixel-art', page('670378')],
  ['http://civitai.com/models/1/a/', page('1')],
  [
    'https://civitai.com/api/download/models/735262?type=Model&format=SafeTensor&token=t',
    {
      kind: 'civitaiFile',
      url: 'https://civitai.com/api/download/models/735262?type=Model&format=SafeTensor&token=t',
    },
  ],
  ['https://example.com/lora.safetensors', file('https://example.com/lora.safetensors')],
  ['http://example.com/a/b/lora.safetensors', file('http://example.com/a/b/lora.safetensors')],
  [
    'https://bucket.s3.example.com/lora.safetensors?X-Amz-Expires=60&X-Amz-Signature=ab',
    file('https://bucket.s3.example.com/lora.safetensors?X-Amz-Expires=60&X-Amz-Signature=ab'),
  ],
  [
    'https://huggingface.co/a/b/resolve/main/sub/lora.safetensors',
    file('https://huggingface.co/a/b/resolve/main/sub/lora.safetensors'),
  ],
  ['fofr/flux-80s-cyberpunk', replicate('fofr', 'flux-80s-cyberpunk')],
  ['fofr/flux-80s-cyberpunk/', replicate('fofr', 'flux-80s-cyberpunk')],
  ['https://replicate.com/fofr/flux-80s-cyberpunk', replicate('fofr', 'flux-80s-cyberpunk')],
  ['fofr/flux/2b6ba1', replicate('fofr', 'flux', '2b6ba1')],
  ['fofr/flux/versions/2b6ba1/', replicate('fofr', 'flux', '2b6ba1')],
  ['https://replicate.com/fofr/flux/versions/2b6ba1', replicate('fofr', 'flux', '2b6ba1')],
  [
    'https://replicate.delivery/xezq/abc/trained_model.tar',
    { kind: 'tar', url: 'https://replicate.delivery/xezq/abc/trained_model.tar' },
  ],
]

test.each(accepted)('%s is understood', (reference, source) => {
  expect(parseLoraSource(reference)).toEqual(source)
})

const hubForm = 'huggingface.co/<owner>/<model-name>[/<lora-weights-file.safetensors>]'
const hubError = `Failed to parse HuggingFace URL. Expected ${hubForm}`
const civitaiError = 'Failed to parse CivitAI URL. Expected civitai.com/models/<id>[/<model-name>]'
const otherError = `Failed to parse URL. Expected either:
* Replicate model in the format <owner>/<username> or <owner>/<username>/<version>
* HuggingFace URL in the format ${hubForm}
* CivitAI URL in the format civitai.com/models/<id>[/<model-name>]
* Arbitrary .safetensors URLs from the Internet`

test.each([
  ['huggingface.co/a', hubError],
  ['huggingface.co/', hubError],
  ['https://huggingface.co/a', hubError],
  ['https://huggingface.co/a/b/tree/main', hubError],
  ['huggingface.co/a/b/lora.bin', hubError],
  ['huggingface.co/a/b/sub/lora.safetensors', hubError],
  ['huggingface.co/../b', hubError],
  ['https://huggingface.co/a/b/lora.ckpt?download=true', hubError],
  ['civitai.com/models/abc', civitaiError],
  ['civitai.com/models', civitaiError],
  ['https://civitai.com/models/1?modelVersionId=2', civitaiError],
  ['civitai.com/models/1?modelVersionId=2', civitaiError],
  ['https://civitai.com/models/1/slug?modelVersionId=2', civitaiError],
  ['civitai.com/api/download/models/2', 'URL must end with either .tar or .safetensors'],
  ['', otherError],
  ['watercolour', otherError],
  ['https://example.com/lora.zip', otherError],
  ['https://example.com/lora.tar', otherError],
  ['https://replicate.delivery/a/b.zip', otherError],
  ['ftp://example.com/lora.safetensors', otherError],
  ['file:///etc/passwd', otherError],
  ['../secret', otherError],
  ['a/..', otherError],
  ['a/./b', otherError],
  ['a/b/versions/..', otherError],
  ['a/b/c/d', otherError],
  ['a/b?c=d', otherError],
  ['a/b%2fc', otherError],
  ['a b/c', otherError],
  ['a/b\n', otherError],
])('%j is refused in the words of the contract', (reference, message) => {
  expect(() => parseLoraSource(reference)).toThrow(
    expect.objectContaining({ code: 'lora_invalid', message }),
  )
})

test.each([
  ['https://a/.safetensors?\n', otherError],
  [`https://a/${'.safetensors?'.repeat(500)}\n`, otherError],
  ['https://a/.safetensorsx', otherError],
])('%j is no URL of a file', (reference, message) => {
  expect(() => parseLoraSource(reference)).toThrow(expect.objectContaining({ message }))
})

test('a reference that is longer than any URL is refused before it is matched', () => {
  const long = `https://a/${'.safetensors?'.repeat(800_000)}\n`
  expect(() => parseLoraSource(long)).toThrow(
    'Expected a LoRA reference of at most 8192 characters but it has 10400011',
  )
  expect(parseLoraSource(`data:application/x-tar;base64,${'A'.repeat(10_000)}`).kind).toBe('data')
})
