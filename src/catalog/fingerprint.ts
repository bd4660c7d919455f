/** Digests of checkpoints and files. A checkpoint's fingerprint needs no read of its weights. */
import { createHash } from 'node:crypto'
import {
  closeSync,
  createReadStream,
  existsSync,
  fstatSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  statSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { invalidCheckpoint } from '../errors.js'
import { openSafetensors } from '../safetensors/read.js'

const textSide = ['text_encoder', 'text_encoder_2', 'tokenizer', 'tokenizer_2']
const sampleBytes = 4096

/**
 * sha256 over the checkpoint's files by name: of a weight file the names, shapes and dtypes of its
 * tensors, its size and 4 KiB from its middle (fine-tunes of Flux.1 share every header); configs
 * and tokenizers whole. Equal content has the same fingerprint on any machine. Throws
 * `checkpoint_invalid`.
 */
export function fingerprintCheckpoint(path: string): string {
  const hash = createHash('sha256')
  for (const [name, file] of listFiles(path)) hash.update(`${name} ${digestContent(file)}\n`)
  return hash.digest('hex')
}

/** The sha256 of the file at `path`, in hex. */
export async function digestFile(path: string): Promise<string> {
  const hash = createHash('sha256')
  await pipeline(createReadStream(path), hash)
  return hash.digest('hex')
}

/**
 * The files of a checkpoint in either layout (see checkpoint.ts), with the names that identify
 * them.
 */
function listFiles(path: string): (readonly [name: string, file: string])[] {
  const stats = statSync(path, { throwIfNoEntry: false })
  if (!stats)
    throw invalidCheckpoint(
      `${path}: expected a diffusers folder or a Flux.1 .safetensors file but nothing is there`,
    )
  if (stats.isDirectory())
    return listFolders(path, ['scheduler', 'transformer', 'vae', ...textSide])
  const folder = dirname(path)
  const autoencoder = join(folder, 'ae.safetensors')
  return existsSync(autoencoder)
    ? [['transformer', path], ['vae', autoencoder], ...listFolders(folder, textSide)]
    : [['transformer', path], ...listFolders(folder, ['vae', ...textSide])]
}

const listFolders = (path: string, folders: readonly string[]) =>
  folders.flatMap((folder) => {
    const names = existsSync(join(path, folder)) ? readdirSync(join(path, folder)) : []
    return names
      .filter((name) => /\.(safetensors|json|txt|model)$/.test(name))
      .sort()
      .map((name) => [`${folder}/${name}`, join(path, folder, name)] as const)
  })

function digestContent(file: string): string {
  const hash = createHash('sha256')
  if (!file.endsWith('.safetensors')) return hash.update(readFileSync(file)).digest('hex')
  const tensors = [...openSafetensors(file).tensors.values()].map(
    ({ name, dtype, shape }) => `${name} ${dtype} ${shape.join('×')}`,
  )
  return hash.update(tensors.sort().join('\n')).update(readSample(file)).digest('hex')
}

/** The file's size and 4 KiB from its middle. */
function readSample(file: string): Buffer {
  const descriptor = openSync(file, 'r')
  try {
    const { size } = fstatSync(descriptor)
    const sample = Buffer.alloc(8 + sampleBytes)
    sample.writeBigUInt64LE(BigInt(size))
    readSync(descriptor, sample, 8, sampleBytes, Math.floor(size / 2))
    return sample
  } finally {
    closeSync(descriptor)
  }
}
