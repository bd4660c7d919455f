/**
 * LoRA references: the text of `replicate_weights` or `extra_lora` as a typed source. The accepted
 * forms, their order and the error messages are those of cog-flux weights.py, which clients
 * display. `owner/name` is a Replicate model, never a Hugging Face repository.
 */
import { invalidLora } from '../errors.js'

export type LoraSource =
  /** A tar inside its own URL. */
  | { readonly kind: 'data'; readonly uri: string }
  /** Without `file`, the repository holds exactly one .safetensors. */
  | {
      readonly kind: 'huggingface'
      readonly owner: string
      readonly repo: string
      readonly file: string | undefined
    }
  /** `id` is the page's; CivitAI's API names the version to download. */
  | { readonly kind: 'civitaiPage'; readonly id: string }
  | { readonly kind: 'civitaiFile'; readonly url: string }
  | { readonly kind: 'file'; readonly url: string }
  /** The tar of a trained model. */
  | {
      readonly kind: 'replicate'
      readonly owner: string
      readonly model: string
      readonly version: string | undefined
    }
  | { readonly kind: 'tar'; readonly url: string }

// A path segment that cannot change the meaning of the URL that it is put into.
const name = String.raw`((?!\.\.?(?:/|$))[\w.-]+)`
const scheme = '(?:https?://)?'
// Other URLs of these hosts are not read as Replicate models of an owner named civitai.com.
const replicate = String.raw`(?!(?:huggingface\.co|civitai\.com)/)(?:https?://replicate\.com/)?`
const form = (text: string) => new RegExp(`^${text}$`)

type Form = readonly [RegExp, (...groups: (string | undefined)[]) => LoraSource | undefined]

// The first form that matches decides.
const forms: readonly Form[] = [
  [
    form(String.raw`${scheme}huggingface\.co/${name}/${name}(?:/([^/?#]+\.safetensors))?/?`),
    (owner, repo, file) => ({ kind: 'huggingface', owner: owner!, repo: repo!, file }),
  ],
  [
    form(String.raw`${scheme}civitai\.com/models/(\d+)(?:/[^/?]+)?/?`),
    (id) => ({ kind: 'civitaiPage', id: id! }),
  ],
  [
    form(String.raw`(https?://civitai\.com/api/download/models/.*)`),
    (url) => ({ kind: 'civitaiFile', url: url! }),
  ],
  // The ending is looked for afterwards: within the pattern it would be tried at every position.
  [
    form('(https?://.*)'),
    (url) => (isSafetensorsUrl(url!) ? { kind: 'file', url: url! } : undefined),
  ],
  [
    form(`${replicate}${name}/${name}/?`),
    (owner, model) => ({ kind: 'replicate', owner: owner!, model: model!, version: undefined }),
  ],
  [
    form(`${replicate}${name}/${name}/(?:versions/)?${name}/?`),
    (owner, model, version) => ({ kind: 'replicate', owner: owner!, model: model!, version }),
  ],
  [form(String.raw`(https?://replicate\.delivery/.*\.tar)`), (url) => ({ kind: 'tar', url: url! })],
]

const isSafetensorsUrl = (url: string) =>
  url.endsWith('.safetensors') || url.includes('.safetensors?')

// Longer than any signed URL; patterns meet nothing longer.
const maxLength = 8192

/**
 * The source that `reference` names. Throws `lora_invalid` in the words of weights.py otherwise.
 */
export function parseLoraSource(reference: string): LoraSource {
  if (reference.startsWith('data:')) return { kind: 'data', uri: reference }
  if (reference.length > maxLength)
    throw invalidLora(
      `Expected a LoRA reference of at most ${maxLength} characters but it has ${reference.length}`,
    )
  for (const [pattern, read] of forms) {
    const groups = pattern.exec(reference)
    const source = groups ? read(...groups.slice(1)) : undefined
    if (source) return source
  }
  throw invalidLora(explain(reference))
}

const hubForm = 'huggingface.co/<owner>/<model-name>[/<lora-weights-file.safetensors>]'

function explain(reference: string): string {
  if (/^civitai\.com\/api\/download\/models\//.test(reference))
    return 'URL must end with either .tar or .safetensors'
  if (reference.includes('huggingface.co'))
    return `Failed to parse HuggingFace URL. Expected ${hubForm}`
  if (reference.includes('civitai.com'))
    return 'Failed to parse CivitAI URL. Expected civitai.com/models/<id>[/<model-name>]'
  return [
    'Failed to parse URL. Expected either:',
    '* Replicate model in the format <owner>/<username> or <owner>/<username>/<version>',
    `* HuggingFace URL in the format ${hubForm}`,
    '* CivitAI URL in the format civitai.com/models/<id>[/<model-name>]',
    '* Arbitrary .safetensors URLs from the Internet',
  ].join('\n')
}
