#!/usr/bin/env node
/**
 * The `fluxd` command: its subcommands and flags. What they do is in cli/; code that loads ONNX
 * Runtime or reads LoRAs is imported by the commands that need it only.
 */
import { existsSync } from 'node:fs'
import { Command, Option } from 'commander'
import { readBuild } from './build.js'
import type { BenchFlags } from './cli/bench.js'
import { type CompareFlags, compare } from './cli/compare.js'
import { runDoctor } from './cli/doctor.js'
import type { InspectFlags } from './cli/inspect.js'
import { addKey, listKeys, type NewKeyFlags, removeKey } from './cli/keys.js'
import { addLora, listLoras, removeLora } from './cli/loras.js'
import { addModel, dropModel, listModels, type NewModelFlags, showModel } from './cli/models.js'
import { type PullFlags, pullModel } from './cli/pull.js'
import { type RunContext, type RunFlags, runPrompt } from './cli/run.js'
import { serve } from './cli/serve.js'
import { type Config, readConfig } from './config/config.js'
import { makePrivate } from './config/privateFolder.js'
import { FluxdError } from './errors.js'
import { noiseSources, precisions, variants } from './plan/plan.js'
import { scopes } from './store/apiKeyStore.js'

/** The settings, with those that flags of the command replace. */
const config = (flags: Readonly<Record<string, string | undefined>> = {}) =>
  readConfig(undefined, existsSync, flags)

/** The settings and streams of a command; the first Ctrl-C aborts its signal. */
function commandContext(settings = config()): RunContext {
  const canceling = new AbortController()
  process.once('SIGINT', () => canceling.abort())
  const { stdout, stderr } = process
  return { config: settings, signal: canceling.signal, stdout, stderr }
}

/** The settings of a command that writes to the data folder, which other users cannot read. */
function dataConfig(flags: Readonly<Record<string, string | undefined>> = {}): Config {
  const settings = config(flags)
  process.umask(0o077)
  makePrivate(settings.dataDir)
  return settings
}

const dataContext = () => commandContext(dataConfig())

// A reader that has closed the pipe, as in `fluxd … | head`, is no failure.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error
  process.exit(0)
})

const program = new Command('fluxd')
  .configureOutput({
    outputError: (text, write) => write(text.replace(/^error: /, 'fluxd: ')),
  })
  .description('Flux.1 image generation with the contract of Replicate’s fine-tunes')
  .version(readBuild().version)

/** Adds the flags that `run` and `compare` share. */
const withGenerationFlags = (command: Command) =>
  command
    .option('--checkpoint <path>', 'diffusers folder or BFL file to use for the model')
    .option('--model <name>', 'dev or schnell (default: dev)')
    .option('--steps <n>', 'denoising steps, 1 to 50 (default: 28, of schnell 4)')
    .option('--seed <n>', 'random seed (default: a random one)')
    .option('--aspect-ratio <ratio>', 'such as 16:9 (default: 1:1)')
    .option('--megapixels <n>', '1 or 0.25 (default: 1)')
    .option('--guidance <scale>', '0 to 10, dev only (default: 3)')
    .addOption(new Option('--noise <source>', 'random numbers to start from').choices(noiseSources))
    .option(
      '--lora <place...>',
      'LoRAs to merge in, PLACE or PLACE:SCALE; a file, a name or a reference; scales -1 to 3',
    )

program
  .command('serve')
  .description('serve the HTTP API (settings: FLUXD_* environment variables)')
  .option('--host <address>', 'address to listen on (default: FLUXD_HOST)')
  .option('--port <n>', 'port to listen on (default: FLUXD_PORT)')
  .action(({ host, port }: { host?: string; port?: string }) =>
    serve(dataConfig({ FLUXD_HOST: host, FLUXD_PORT: port })),
  )

withGenerationFlags(
  program
    .command('run')
    .description('generate images without a server')
    .argument('<prompt>', 'what the image shows')
    .option('-o, --output <file>', 'file to write, .webp, .jpg or .png; - for stdout')
    .option('--format <name>', 'webp, jpg or png, without a file name (default: webp)'),
)
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
  .option('--go-fast', 'fp8 instead of bf16')
  .option('--num-outputs <n>', 'images to generate, 1 to 4 (default: 1)')
  .option('--image <file>', 'file or URL to start from; decides the size')
  .option('--mask <file>', 'file or URL, with --image: only what is white is repainted')
  .option('--strength <s>', 'how far from the image, 0 to 1 (default: 0.8)')
  .option('--quality <n>', '0 to 100, not for .png (default: 80)')
  .action(async (prompt: string, flags: RunFlags) => {
    await runPrompt(prompt, flags, commandContext())
  })

withGenerationFlags(
  program
    .command('compare')
    .description('how close fp8 comes to bf16: PSNR and SSIM of images from the same seeds')
    .argument('<prompt...>', 'what the image shows'),
)
  .option('--num-outputs <n>', 'seeds for each prompt, 1 to 4 (default: 1)')
  .option('--json', 'one JSON object instead of lines')
  .action((prompts: string[], flags: CompareFlags) => compare(prompts, flags, commandContext()))

program
  .command('pull')
  .description('download Flux.1 weights from Hugging Face; continues an interrupted pull')
  .argument(
    '<model>',
    'dev, schnell, or OWNER/NAME of a diffusers repository; @REVISION may follow',
  )
  .option('--to <folder>', 'folder to put them in (default: in models/ of the data folder)')
  .action((model: string, flags: PullFlags) => pullModel(model, flags, commandContext()))

program
  .command('doctor')
  .description('check this machine and the settings, with a fix for each problem')
  .option('--json', 'as JSON')
  .action(async (flags: { json?: boolean }) => {
    if (!(await runDoctor(flags, commandContext()))) process.exitCode = 1
  })

program
  .command('bench')
  .description('measure how fast this machine generates, and its share of the peak speed')
  .addOption(new Option('--model <name>', 'dev or schnell (default: both)').choices(variants))
  .option('--checkpoint <path>', 'diffusers folder or BFL file to use for the model')
  .option('--size <size...>', 'WxH in pixels (default: 1024x1024 512x512)')
  .addOption(new Option('--precision <name...>', 'bf16 or fp8 (default: both)').choices(precisions))
  .option('--repeats <n>', 'images of each kind (default: 5)')
  .option('--lora <place>', 'file or name of a LoRA to switch to and from')
  .option('--quick', 'fewer of everything, and no start with weights read from the disk')
  .option('--json <file>', 'file to write the report to')
  .action(async (flags: BenchFlags) => {
    // bench runs ONNX Runtime in this process; other commands do not load it.
    const { runBench } = await import('./cli/bench.js')
    await runBench(flags, commandContext())
  })

const models = program.command('models').description('the named models, served as OWNER/NAME')

models
  .command('ls')
  .alias('list')
  .description('list them')
  .option('--json', 'as JSON')
  .action((flags: { json?: boolean }) => listModels(flags, commandContext()))

models
  .command('show')
  .description('show what a model resolves to: checkpoint, LoRAs, defaults, version')
  .argument('<model>', 'OWNER/NAME')
  .option('--json', 'as JSON')
  .action((model: string, flags: { json?: boolean }) => showModel(model, flags, commandContext()))

models
  .command('add')
  .description('add one of your own')
  .argument('<model>', 'OWNER/NAME')
  .option('--lora <ref...>', 'REF or REF:SCALE; a file, or what replicate_weights may be')
  .option('--trigger <word>', 'the word that triggers what the LoRA was trained on')
  .option('--base <name>', 'dev or schnell (default: dev)')
  .option('--default <field...>', 'KEY=VALUE: input fields for requests that do not set them')
  .option('--description <text>', 'one or two sentences')
  .option(
    '--version-alias <id...>',
    'ids by which clients name its version, such as its id at Replicate',
  )
  .action((model: string, flags: NewModelFlags) => addModel(model, flags, dataContext()))

models
  .command('rm')
  .alias('remove')
  .description('remove one of your own')
  .argument('<model>', 'OWNER/NAME')
  .action((model: string) => dropModel(model, dataContext()))

const loras = program.command('loras').description('the LoRAs of this server, by name')

loras
  .command('ls')
  .alias('list')
  .description('list them, and the ones that predictions downloaded')
  .option('--json', 'as JSON')
  .action((flags: { json?: boolean }) => listLoras(flags, commandContext()))

loras
  .command('add')
  .description('store a LoRA under a name')
  .argument('<name>', 'such as watercolour or owner/watercolour')
  .argument('<source>', 'a file, or a reference as in replicate_weights')
  .action((name: string, source: string) => addLora(name, source, dataContext()))

loras
  .command('rm')
  .alias('remove')
  .description('remove a name, and its file if no other name has it')
  .argument('<name>')
  .action((name: string) => removeLora(name, dataContext()))

loras
  .command('inspect')
  .description('show what a LoRA holds and whether it fits the model; fails if it does not')
  .argument('<place>', 'a file or a name')
  .option('--model <name>', 'dev or schnell (default: dev)')
  .option('--json', 'as JSON, with every module and key')
  .action(async (place: string, flags: InspectFlags) => {
    // inspect reads LoRAs with the engine's code; other commands do not load it.
    const { inspect } = await import('./cli/inspect.js')
    if (!(await inspect(place, flags, commandContext()))) process.exitCode = 1
  })

const keys = program
  .command('keys')
  .description('the API keys of this server; changes apply while it runs')

keys
  .command('ls')
  .alias('list')
  .description('list them')
  .option('--json', 'as JSON')
  .action((flags: { json?: boolean }) => listKeys(flags, dataContext()))

keys
  .command('add')
  .description('issue a key and print it; it cannot be shown again')
  .argument('<name>', 'the name of its holder')
  .option('--scope <scopes...>', `what it may do: ${scopes.join(', ')}`, ['predict'])
  .option('--priority <n>', 'higher goes first, -100 to 100', '0')
  .option('--rate <n>', 'new predictions a minute; 0 is without limit', '600')
  .action((name: string, flags: NewKeyFlags) => addKey(name, flags, dataContext()))

keys
  .command('rm')
  .alias('remove')
  .description('revoke a key')
  .argument('<name>')
  .action((name: string) => removeKey(name, dataContext()))

try {
  await program.parseAsync()
} catch (error) {
  process.stderr.write(`fluxd: ${error instanceof Error ? error.message : String(error)}\n`)
  // Shells expect status 130 of a command that Ctrl-C ended.
  process.exitCode = error instanceof FluxdError && error.code === 'canceled' ? 130 : 1
}
