import { expect, test } from 'vitest'
import { loadAddon } from '../../src/engine/runtime/backends/native/addon.js'

test('an addon that cannot be had says how to build it', () => {
  expect(() => loadAddon('/nowhere/libonnxruntime.so.1')).toThrow(
    /^Expected the native addon, but .*; build it with: npm run build:native$/,
  )
})
