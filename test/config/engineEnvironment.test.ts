import { expect, test } from 'vitest'
import { engineEnvironment } from '../../src/config/engineEnvironment.js'

test('an engine gets no settings, secrets or proxies', () => {
  const secrets = {
    FLUXD_API_KEY: 'secret',
    FLUXD_HF_TOKEN: 'secret',
    HF_TOKEN: 'secret',
    AWS_SECRET_ACCESS_KEY: 'secret',
    HTTPS_PROXY: 'http://me:secret@proxy',
    http_proxy: 'http://me:secret@proxy',
  }
  expect(engineEnvironment(undefined, { ...secrets, PATH: '/bin', LANG: 'C' })).toEqual({
    PATH: '/bin',
    LANG: 'C',
    ORT_DISABLE_TELEMETRY: '1',
  })
})

test('an engine of one GPU sees only that one, of those that the operator shows', () => {
  expect(engineEnvironment(1, {})).toMatchObject({ CUDA_VISIBLE_DEVICES: '1' })
  expect(engineEnvironment(1, { CUDA_VISIBLE_DEVICES: '4,6' })).toMatchObject({
    CUDA_VISIBLE_DEVICES: '6',
  })
})
