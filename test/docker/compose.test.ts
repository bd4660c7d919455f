/**
 * The compose files against the Compose Specification (compose-spec.json is its published schema,
 * github.com/compose-spec/compose-spec at 170098b, Apache-2.0), and against the Dockerfile.
 */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Ajv } from 'ajv'
import { expect, test } from 'vitest'
import { parse } from 'yaml'
import { configTable } from '../../src/config/settings.js'

const root = join(import.meta.dirname, '../..')
const read = (path: string) => readFileSync(join(root, path), 'utf8')

const dockerfile = read('Dockerfile.cuda')
// The override's `!reset` is a tag of compose itself.
const compose = (file: string) => parse(read(`docker/${file}`), { customTags: [resetTag] })
const resetTag = { tag: '!reset', resolve: () => undefined }

const { $schema, ...schema } = JSON.parse(read('test/docker/compose-spec.json'))
const isCompose = new Ajv({ strict: false, validateFormats: false }).compile(schema)

test.each(['compose.yml', 'compose.cpu.yml'])('%s is valid', (file) => {
  isCompose(compose(file))
  expect(isCompose.errors ?? []).toEqual([])
})

test('the check sees what is wrong', () => {
  expect(isCompose({ services: { fluxd: { volums: [] } } })).toBe(false)
})

const { services, volumes, secrets } = compose('compose.yml')

test('the server gets its GPU, its time to finish, and every volume and secret it names', () => {
  const { fluxd } = services
  expect(fluxd.deploy.resources.reservations.devices[0]).toMatchObject({ capabilities: ['gpu'] })
  expect(Number.parseInt(fluxd.stop_grace_period, 10)).toBeGreaterThanOrEqual(90)
  for (const volume of fluxd.volumes) expect(Object.keys(volumes)).toContain(volume.split(':')[0])
  for (const secret of fluxd.secrets) expect(Object.keys(secrets)).toContain(secret)
})

test('the settings of compose and Dockerfile exist', () => {
  const known = new Set(configTable().map(({ name }) => name))
  const named = [
    ...Object.keys(services.fluxd.environment),
    ...[...dockerfile.matchAll(/\b(FLUXD_\w+)=/g)].map((match) => match[1]!),
  ]
  expect(named.length).toBeGreaterThan(5)
  // A secret may be given as the file that holds it.
  for (const name of named) expect(known).toContain(name.replace(/_FILE$/, ''))
})

test('what the Dockerfile copies from the project is there', () => {
  const copied = [...dockerfile.matchAll(/^COPY (?!--from)(.+) \S+$/gm)].flatMap((match) =>
    match[1]!.split(' '),
  )
  expect(copied.length).toBeGreaterThan(5)
  for (const path of copied) expect(existsSync(join(root, path)), path).toBe(true)
})

const runtime = dockerfile.split(/^FROM /m).at(-1)!

test('the image runs as a user of its own, with a health check and the command on its PATH', () => {
  expect(runtime).toMatch(/^USER fluxd$/m)
  expect(runtime).toMatch(/^HEALTHCHECK /m)
  expect(runtime).toContain('ln -s /app/dist/main.js /usr/local/bin/fluxd')
})

test('health is being alive: a server with a full queue is not restarted', () => {
  expect(read('docker/healthcheck.mjs')).toMatch(/fetch\(`http:\/\/127\.0\.0\.1:.*\/livez`\)/)
})

test('the image installs what is locked, holds the licences, and sends nothing to anybody', () => {
  expect(dockerfile).toContain('npm ci ')
  expect(dockerfile).not.toMatch(/npm install(?! -)/)
  expect(runtime).toMatch(/^COPY LICENSE /m)
  expect(runtime).toMatch(/^ENV ORT_DISABLE_TELEMETRY=1$/m)
})
