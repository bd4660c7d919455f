/** `fluxd loras inspect`: what a LoRA file is, whether it fits the model, and if not, why. */

import type { Config } from '../config/config.js'
import { openCheckpoint } from '../engine/checkpoint/checkpoint.js'
import type { LoraBase } from '../engine/lora/format/groups.js'
import {
  type Fault,
  inspectLora,
  isUsable,
  type LoraReport,
  type ModuleReport,
  publishedBase,
} from '../engine/lora/format/inspect.js'
import { openSafetensors } from '../safetensors/read.js'
import { type LorasContext, locateLora } from './loras.js'

export type InspectFlags = { readonly model?: string; readonly json?: boolean }

export type InspectContext = LorasContext & { readonly config: Pick<Config, 'checkpoints'> }

const maxListed = 20
const maxValueLength = 200

/** What the file looks like from one base model. */
type View = { readonly base: string; readonly report: LoraReport }

/**
 * Prints what the file `place`, or the LoRA of that name, holds, as seen from the checkpoint of the
 * model or, if it fits that better, from Flux.1 as published. Returns whether it fits one of them.
 */
export async function inspect(
  place: string,
  { model = 'dev', json = false }: InspectFlags,
  context: InspectContext,
): Promise<boolean> {
  const path = await locateLora(place, context)
  const file = openSafetensors(path)
  const views = listBases(model, context).map(
    ([base, params]): View => ({ base, report: inspectLora(file, params) }),
  )
  const best = chooseView(views)
  const fits = views.map(({ base, report }) => ({ base, fits: isUsable(report) }))
  context.stdout.write(
    json
      ? `${JSON.stringify({ path, bases: fits, ...best.report }, null, 2)}\n`
      : describe(path, views, best.report),
  )
  return isUsable(best.report)
}

function listBases(model: string, { config }: InspectContext): (readonly [string, LoraBase])[] {
  const path = model === 'schnell' ? config.checkpoints.schnell : config.checkpoints.dev
  const { transformer, text } = openCheckpoint(path)
  return [
    [path, { transformer: transformer.params, clip: text.clip.params }],
    ['Flux.1 as published', publishedBase],
  ]
}

const chooseView = (views: readonly View[]): View =>
  views.find(({ report }) => isUsable(report)) ??
  views.reduce((best, each) =>
    each.report.modules.length > best.report.modules.length ? each : best,
  )

function describe(path: string, views: readonly View[], report: LoraReport): string {
  const { modules, matched, ignored, unmatched, faults, metadata } = report
  const total = matched.length + ignored.length + unmatched.length
  const fits = views.map(
    (view) => `${isUsable(view.report) ? 'fits' : 'does not fit'} ${view.base}`,
  )
  return [
    path,
    `  format     ${report.schemes.join(', ') || 'none that is known'}`,
    `  modules    ${summarise(modules)}`,
    `  keys       ${matched.length} of ${total} matched`,
    `  base       ${fits.join('; ')}`,
    ...list('ranks', countRanks(modules)),
    ...list('wrong', reasons(faults)),
    ...list('unmatched', reasons(unmatched)),
    ...list('ignored', ignored),
    ...list(
      'metadata',
      Object.entries(metadata).map(([name, value]) => `${name}: ${value}`),
    ),
    '',
  ].join('\n')
}

const reasons = (faults: readonly Fault[]) => faults.map(({ reason }) => reason)

function summarise(modules: readonly ModuleReport[]): string {
  const kinds = [...new Set(modules.map(({ kind }) => kind))]
  return modules.length === 0 ? 'none' : `${modules.length} (${kinds.join(', ')})`
}

/** `rank 16, alpha 16: 304 modules`, the most frequent first. */
function countRanks(modules: readonly ModuleReport[]): string[] {
  const counts = new Map<string, number>()
  for (const { rank, alpha } of modules) {
    const text = rank === undefined ? 'whole' : `rank ${rank}, alpha ${round(alpha ?? rank)}`
    counts.set(text, (counts.get(text) ?? 0) + 1)
  }
  return [...counts]
    .sort(([, a], [, b]) => b - a)
    .map(([text, count]) => `${text}: ${count} ${count === 1 ? 'module' : 'modules'}`)
}

const round = (value: number) => Number(value.toPrecision(6))

function list(title: string, lines: readonly string[]): string[] {
  if (lines.length === 0) return []
  const more = lines.length - maxListed
  return [
    `  ${title}`,
    ...lines.slice(0, maxListed).map((line) => `    ${cut(line)}`),
    ...(more > 0 ? [`    and ${more} more; --json lists them all`] : []),
  ]
}

/** One line without what would move the cursor: the text is a stranger's. */
const cut = (text: string) =>
  [...text]
    .slice(0, maxValueLength)
    .map((each) => (each < ' ' || (each >= '\x7f' && each < '\xa0') ? ' ' : each))
    .join('')
