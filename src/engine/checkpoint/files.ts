/** Reads a component's weights and JSON files from a folder, whole or in shards. */
import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { z } from 'zod'
import { invalidCheckpoint } from '../../errors.js'
import { openSafetensors, type Tensors } from '../../safetensors/read.js'
import { refuseQuantised } from './quantised.js'
import { attachScales } from './scales.js'

const ShardIndex = z.object({ weight_map: z.record(z.string(), z.string()) })

/** The JSON file at `path`, validated; throws `checkpoint_invalid` naming file and field. */
export function readJson<T>(path: string, schema: z.ZodType<T>): T {
  const parsed = schema.safeParse(parseFile(path))
  if (parsed.success) return parsed.data
  throw invalidCheckpoint(`${path}: ${z.prettifyError(parsed.error)}`, parsed.error)
}

function parseFile(path: string): unknown {
  try {
    return JSON.parse(readFileSync(path, 'utf8'))
  } catch (cause) {
    throw invalidCheckpoint(`${path}: expected a readable JSON file (${String(cause)})`, cause)
  }
}

/**
 * All tensors of `folder/stem.safetensors` or of the shards its index lists, fp8 ones with their
 * scales.
 */
export function openTensors(folder: string, stem: string): Tensors {
  const stored = openFiles(folder, stem)
  refuseQuantised(folder, stored)
  return attachScales(folder, stored)
}

function openFiles(folder: string, stem: string): Tensors {
  const single = join(folder, `${stem}.safetensors`)
  const index = `${single}.index.json`
  if (existsSync(index)) return openShards(index)
  if (existsSync(single)) return openSafetensors(single).tensors
  refusePickle(folder, stem)
  throw invalidCheckpoint(`${folder}: expected ${stem}.safetensors or its .index.json`)
}

function refusePickle(folder: string, stem: string) {
  const pickle = [`${stem}.bin`, 'pytorch_model.bin'].find((each) => existsSync(join(folder, each)))
  if (pickle)
    throw invalidCheckpoint(
      `${folder}: expected ${stem}.safetensors but there is only ${pickle}, a Python pickle, ` +
        'which is never opened; save the model as safetensors',
    )
}

function openShards(index: string): Tensors {
  const { weight_map } = readJson(index, ShardIndex)
  const shards = new Map<string, Tensors>()
  for (const shard of new Set(Object.values(weight_map))) {
    const path = join(dirname(index), shard)
    if (!existsSync(path))
      throw invalidCheckpoint(`${index}: lists the shard ${shard}, which is missing`)
    shards.set(shard, openSafetensors(path).tensors)
  }
  return new Map(
    Object.entries(weight_map).map(([name, shard]) => {
      const slice = shards.get(shard)?.get(name)
      if (!slice) throw invalidCheckpoint(`${index}: lists ${name} in ${shard}, which lacks it`)
      return [name, slice]
    }),
  )
}
