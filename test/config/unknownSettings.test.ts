import { expect, test } from 'vitest'
import { readConfig } from '../../src/config/config.js'

const warningsOf = (name: string, value = '1') => readConfig({ [name]: value }).warnings

test.each([
  ['FLUXD_PROT', 'FLUXD_PORT'],
  ['FLUXD_DEVCE', 'FLUXD_DEVICE'],
  ['FLUXD_HOSTNAME', 'FLUXD_HOST'],
  ['FLUXD_LORA_CACHE', 'FLUXD_LORA_CACHE_BYTES'],
  ['FLUXD_MEMORY', 'FLUXD_MEMORY_BYTES'],
  ['FLUXD_KEY', 'FLUXD_API_KEY'],
  ['FLUXD_TOKEN', 'FLUXD_HF_TOKEN'],
  ['FLUXD_CORS_ORIGIN', 'FLUXD_CORS_ORIGINS'],
  ['FLUXD_API_KEYFILE', 'FLUXD_API_KEY_FILE'],
])('%s is no setting, and %s is named', (name, meant) => {
  expect(warningsOf(name)).toEqual([`There is no setting ${name}; did you mean ${meant}?`])
})

test('a name unlike any other gets no suggestion', () => {
  expect(warningsOf('FLUXD_TEMPERATURE')).toEqual(['There is no setting FLUXD_TEMPERATURE'])
})

test.each([
  ['FLUXD_PORT', '5000'],
  ['FLUXD_API_KEY_FILE', '/dev/null'],
  ['FLUXD_PROT', ''],
  ['HTTP_PORT', '1'],
  // Kubernetes sets these for a service named fluxd.
  ['FLUXD_SERVICE_HOST', '10.0.0.1'],
  ['FLUXD_SERVICE_PORT_HTTP', '5000'],
  ['FLUXD_PORT_5000_TCP_ADDR', '10.0.0.1'],
  ['FLUXD_TEST_KILLS', '50'],
])('%s=%s is nothing to warn of', (name, value) => {
  expect(warningsOf(name, value)).toEqual([])
})
