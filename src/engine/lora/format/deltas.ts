/**
 * The tensors that a file holds for one module, checked against the module's shape, as changes of
 * the base model's tensors. A module that is fused in the file is cut by rows.
 * Formulas: F-4.1 and F-4.5; ComfyUI, comfy/weight_adapter.
 */

import { invalidLora } from '../../../errors.js'
import { sliceRows, type TensorSlice } from '../../../safetensors/read.js'
import { elementCount, type StoredDType } from '../../../safetensors/tensor.js'
import { describeInputChannels } from '../../checkpoint/foreign.js'
import { type Change, changeRows, type Delta, type DoraPart, type Factor } from './adapter.js'
import { type LoraKey, type Role, spell } from './keys.js'
import type { LoraModule } from './modules.js'
import type { Scaling } from './scaling.js'

/** One module's tensors by role; `key` is the first of them. */
export type Group = { readonly key: LoraKey; readonly tensors: ReadonlyMap<Role, TensorSlice> }

type Scope = Group & { readonly path: string; readonly scaling: Scaling; readonly outputs: number }

// Powers of two, packed floats and complex numbers are no layer's values.
const unusable: readonly StoredDType[] = ['F8_E8M0', 'F4', 'F6_E2M3', 'F6_E3M2', 'C64']

/**
 * What the group adds to each tensor of the base model, by the tensor's name.
 * Throws `lora_invalid` naming the first tensor that is missing or of another shape or dtype.
 */
export function groupDeltas(path: string, group: Group, scaling: Scaling): [string, Delta][] {
  for (const [role, slice] of group.tensors) checkTensor(path, group.key.module, role, slice)
  const outputs = group.key.module.parts.reduce((sum, { rows }) => sum + rows, 0)
  const scope = { ...group, path, scaling, outputs }
  const deltas = [...weightDeltas(scope), ...biasDeltas(scope)]
  if (deltas.length === 0) throw orphan(path, group.tensors.values().next().value!)
  return deltas
}

const orphan = (path: string, { name }: TensorSlice) =>
  invalidLora(`${path}: expected a change to go with ${name} but there is none`)

function checkTensor(path: string, module: LoraModule, role: Role, slice: TensorSlice) {
  const { name } = module.parts[0]!
  if (role !== 'alpha' && unusable.includes(slice.dtype))
    throw invalidLora(
      `${path}: expected ${slice.name} in a dtype of numbers, one by one, but it is ${slice.dtype}`,
    )
  const isVector = module.inputs === undefined
  if (isVector && role !== 'diff' && !(role === 'diffBias' && module.hasBias))
    throw invalidLora(
      `${path}: expected nothing but a .diff for ${name}, which is a vector, but got ${slice.name}`,
    )
}

function weightDeltas(scope: Scope): [string, Delta][] {
  const { parts } = scope.key.module
  const changes = [lowRank, loha, lokr, full].flatMap((read) => read(scope) ?? [])
  const magnitude = scope.tensors.get('magnitude')
  if (magnitude && changes.length === 0) throw orphan(scope.path, magnitude)
  if (magnitude) return doraDeltas(scope, changes, magnitude)
  return cutChanges(parts, changes).flatMap(({ tensor, changes }) =>
    changes.map((change): [string, Delta] => [tensor, change]),
  )
}

/** The changes of a module as those of its tensors. */
const cutChanges = (parts: LoraModule['parts'], changes: readonly Change[]): DoraPart[] =>
  partsOf(parts).map(({ name, begin, end }) => ({
    tensor: `${name}.weight`,
    changes: parts.length === 1 ? changes : changes.map((each) => changeRows(each, begin, end)),
  }))

function partsOf(parts: LoraModule['parts']) {
  let end = 0
  return parts.map(({ name, rows }) => {
    end += rows
    return { name, begin: end - rows, end }
  })
}

function lowRank(scope: Scope): Change | undefined {
  const { tensors } = scope
  if (!tensors.has('up') && !tensors.has('down')) return undefined
  const [up, down] = product(scope, 'up', 'down')
  return { kind: 'lowRank', up, down, factor: factorOf(scope, rankOf(down)) }
}

function loha(scope: Scope): Change | undefined {
  const roles = ['hadaUp1', 'hadaDown1', 'hadaUp2', 'hadaDown2'] as const
  if (!roles.some((role) => scope.tensors.has(role))) return undefined
  const first = product(scope, 'hadaUp1', 'hadaDown1')
  const second = product(scope, 'hadaUp2', 'hadaDown2')
  return { kind: 'loha', first, second, factor: factorOf(scope, rankOf(first[1])) }
}

/** Two matrices whose product has the module's shape. */
function product(scope: Scope, upRole: Role, downRole: Role): readonly [TensorSlice, TensorSlice] {
  const down = matrix(scope, downRole)
  const up = matrix(scope, upRole)
  checkProduct(scope, up, down)
  return [up, down]
}

const rankOf = (down: TensorSlice) => down.shape[0]!

const factorOf = ({ scaling, key, tensors }: Scope, rank: number) =>
  scaling.factor(key, tensors.get('alpha'), rank)

function lokr(scope: Scope): Change | undefined {
  const { tensors, key, outputs } = scope
  const roles = ['lokr1', 'lokrUp1', 'lokrDown1', 'lokr2', 'lokrUp2', 'lokrDown2'] as const
  const given = roles.find((role) => tensors.has(role))
  if (!given) return undefined
  const first = kroneckerFactor(scope, 'lokr1', 'lokrUp1', 'lokrDown1')
  const second = kroneckerFactor(scope, 'lokr2', 'lokrUp2', 'lokrDown2')
  const rows = rowsOf(first) * rowsOf(second)
  const columns = columnsOf(first) * columnsOf(second)
  if (rows !== outputs || columns !== key.module.inputs)
    throw invalidLora(
      `${scope.path}: expected ${tensors.get(given)!.name} to be a factor of a ` +
        `[${outputs},${key.module.inputs}] layer but the product is [${rows},${columns}]; is the ` +
        'LoRA for another model?',
    )
  // The second factor's rank counts where both are products; two whole factors know no rank.
  const rank = [second, first].find((factor) => factor.length === 2)?.[1]?.shape[0]
  const factor = rank ? factorOf(scope, rank) : 1
  return { kind: 'lokr', first, second, factor, rows: { begin: 0, end: outputs } }
}

function kroneckerFactor(scope: Scope, whole: Role, up: Role, down: Role): Factor {
  const [given, doubled] = [whole, up, down].flatMap((role) => scope.tensors.get(role) ?? [])
  if (scope.tensors.has(whole) && doubled)
    throw invalidLora(
      `${scope.path}: expected ${given!.name} or a product in its place but got ${doubled.name}, ` +
        'too',
    )
  if (scope.tensors.has(whole)) return [matrix(scope, whole)]
  const product = [matrix(scope, up), matrix(scope, down)] as const
  checkRank(scope, ...product)
  return product
}

const rowsOf = (factor: Factor) => factor[0].shape[0]!
const columnsOf = (factor: Factor) => factor[factor.length - 1]!.shape[1]!

function full(scope: Scope): Change | undefined {
  const { inputs } = scope.key.module
  const values = scope.tensors.get('diff')
  if (!values) return undefined
  const shape = inputs === undefined ? [scope.outputs] : [scope.outputs, inputs]
  return { kind: 'full', values: reshaped(scope, values, shape), factor: 1 }
}

function biasDeltas(scope: Scope): [string, Delta][] {
  const { key, tensors, outputs } = scope
  // The bias of the up layer is scaled as the layer is.
  const upFactor = () => factorOf(scope, rankOf(matrix(scope, 'down')))
  const given = [
    [tensors.get('diffBias'), 1],
    [tensors.get('upBias'), tensors.has('upBias') ? upFactor() : 1],
  ] as const
  return given.flatMap(([slice, factor]) => {
    if (!slice) return []
    const values = reshaped(scope, slice, [outputs])
    return partsOf(key.module.parts).map(({ name, begin, end }): [string, Delta] => [
      `${name}.bias`,
      { kind: 'full', values: sliceRows(values, begin, end), factor },
    ])
  })
}

function doraDeltas(scope: Scope, changes: Change[], magnitude: TensorSlice): [string, Delta][] {
  const { parts, inputs = 0 } = scope.key.module
  const cut = cutChanges(parts, changes)
  if (squeezed(magnitude, 2).shape[0] === 1) {
    const whole = reshaped(scope, magnitude, [inputs])
    return cut.map((part) => [
      part.tensor,
      {
        kind: 'dora',
        changes: part.changes,
        magnitude: whole,
        normOver: 'columns',
        others: cut.filter((each) => each !== part),
      },
    ])
  }
  const rows = reshaped(scope, magnitude, [scope.outputs])
  return partsOf(parts).map(({ begin, end }, i) => [
    cut[i]!.tensor,
    {
      kind: 'dora',
      changes: cut[i]!.changes,
      magnitude: sliceRows(rows, begin, end),
      normOver: 'rows',
      others: [],
    },
  ])
}

// A matrix, also where it is stored like a 1×1 convolution.
function matrix(scope: Scope, role: Role): TensorSlice {
  const slice = scope.tensors.get(role)
  if (!slice) {
    const sibling = [...scope.tensors.values()].at(-1)!.name
    throw invalidLora(
      `${scope.path}: expected ${spell(scope.key.stem, role, sibling)} to go with ${sibling} but ` +
        'it is missing',
    )
  }
  const flat = squeezed(slice, 2)
  if (flat.shape.length === 2 && elementCount(flat.shape) > 0) return flat
  throw invalidLora(`${scope.path}: expected a matrix in ${slice.name} but it is [${slice.shape}]`)
}

function squeezed(slice: TensorSlice, dims: number): TensorSlice {
  const shape = [...slice.shape]
  while (shape.length > dims && shape.at(-1) === 1) shape.pop()
  return { ...slice, shape }
}

// The same values under another shape, for a vector that is stored as one row or column.
function reshaped(scope: Scope, slice: TensorSlice, shape: readonly number[]): TensorSlice {
  const real = (dims: readonly number[]) => dims.filter((dim) => dim !== 1).join()
  if (real(slice.shape) === real(shape)) return { ...slice, shape }
  throw otherShape(scope, slice.name, shape, slice.shape)
}

function checkProduct(scope: Scope, up: TensorSlice, down: TensorSlice) {
  const { inputs } = scope.key.module
  if (down.shape[1] !== inputs) {
    refuseWideInput(scope, down)
    throw otherShape(scope, down.name, ['r', inputs ?? 1], down.shape)
  }
  if (up.shape[0] !== scope.outputs)
    throw otherShape(scope, up.name, [scope.outputs, 'r'], up.shape)
  checkRank(scope, up, down)
}

function checkRank(scope: Scope, up: TensorSlice, down: TensorSlice) {
  const [rank = 0] = down.shape
  if (up.shape[1] === rank) return
  throw invalidLora(
    `${scope.path}: expected ${up.name} of rank ${rank}, as ${down.name} has it, but it is ` +
      `[${up.shape}]`,
  )
}

function refuseWideInput({ key, path }: Scope, { name, shape }: TensorSlice) {
  const channels = shape[1] ?? 0
  const { inputs = 0 } = key.module
  if (key.module.parts[0]!.name === 'x_embedder' && channels > inputs)
    throw invalidLora(
      `${path}: expected a LoRA for ${inputs} input channels but ${name} takes ${channels}: it ` +
        `makes the model ${describeInputChannels(channels)}, which is not supported`,
    )
}

const otherShape = (
  { path }: Scope,
  name: string,
  expected: readonly (number | string)[],
  shape: readonly number[],
) =>
  invalidLora(
    `${path}: expected ${name} of shape [${expected}] but it is [${shape}]; is the LoRA for ` +
      'another model?',
  )
