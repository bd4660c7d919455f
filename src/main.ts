#!/usr/bin/env node
/** The `fluxd` command. */
import { readFileSync } from 'node:fs'
import { Command, Option } from 'commander'
import { type RunFlags, runPrompt } from './cli/run.js'
import { serve } from './cli/serve.js'
import { readConfig } from './config.js'
import { FluxdError } from './errors.js'
import { noiseSources } from './plan/plan.js'

const { version } = JSON.parse(
  readFileSync(new URL('../package.json', import.meta.url), 'utf8'),
) as { version: string }

const program = new Command('fluxd')
  .description('Flux.1 pictures with the contract of Replicate’s fine-tunes')
  .version(version)

program
  .command('serve')
  .description('serve the HTTP API (settings: FLUXD_* environment variables)')
  .action(() => serve(readConfig()))

program
  .command('run')
  .description('make pictures without a server')
  .argument('<prompt>', 'what to draw')
  .requiredOption('-o, --output <file>', 'file to write: .webp, .jpg, .jpeg or .png')
  .option('--checkpoint <path>', 'diffusers folder or BFL file to use for the model')
  .option('--model <name>', 'dev or schnell (default: dev)')
  .option('--steps <n>', 'denoising steps, 1 to 50 (default: 28)')
  .option('--seed <n>', 'random seed (default: drawn)')
  .addOption(
    new Option('--width <pixels>', '256 to 1440, with --height').conflicts([
      'aspectRatio',
      'megapixels',
    ]),
  )
  .addOption(
    new Option('--height <pixels>', '256 to 1440, with --width').conflicts([
      'aspectRatio',
      'megapixels',
    ]),
  )
  .option('--aspect-ratio <ratio>', 'such as 16:9 (default: 1:1)')
  .option('--megapixels <n>', '1 or 0.25 (default: 1)')
  .option('--guidance <scale>', '0 to 10, dev only (default: 3)')
  .addOption(new Option('--noise <source>', 'random numbers to start from').choices(noiseSources))
  .option('--lora <file[:scale]...>', 'LoRA files to merge in, scales -1 to 3 (default: 1)')
  .option('--num-outputs <n>', 'pictures to make, 1 to 4 (default: 1)')
  .option('--image <file>', 'file or URL to start from; decides the size')
  .option('--mask <file>', 'file or URL, with --image: only what is white is repainted')
  .option('--strength <s>', 'how far from the image, 0 to 1 (default: 0.8)')
  .option('--quality <n>', '0 to 100, not for .png (default: 80)')
  .action(async (prompt: string, flags: RunFlags) => {
    const canceling = new AbortController()
    process.once('SIGINT', () => canceling.abort())
    const { stdout, stderr } = process
    await runPrompt(prompt, flags, {
      config: readConfig(),
      signal: canceling.signal,
      stdout,
      stderr,
    })
  })

try {
  await program.parseAsync()
} catch (error) {
  process.stderr.write(`fluxd: ${error instanceof Error ? error.message : String(error)}\n`)
  // 130 is what a shell expects of a command that Ctrl-C ended.
  process.exitCode = error instanceof FluxdError && error.code === 'canceled' ? 130 : 1
}
