/** Which of a GPU's errors end the engine process, and which words reach the caller. */
import { expect, test } from 'vitest'
import {
  gpuFailure,
  loadFailure,
  runFailure,
} from '../../../../src/engine/runtime/backends/cudaErrors.js'
import { invalidCheckpoint } from '../../../../src/errors.js'

// As ONNX Runtime, native/cuda and native/weights say it.
const inOurs = 'Non-zero status code returned while running Linear node. Status Message: '
test.each([
  ['CUDA failure 2: out of memory ; GPU=0 ; hostname=vm', 'engine_failed'],
  ['CUDA failure 700: an illegal memory access was encountered ; GPU=0', 'engine_died'],
  ['CUDA failure 21: a ; GPU=0', 'engine_died'],
  ['CUBLAS failure 3: the resource allocation failed ; GPU=0', 'engine_failed'],
  ['CUBLAS failure 13: the GPU program failed to execute ; GPU=0', 'engine_died'],
  ['CUDNN failure 5000: CUDNN_STATUS_EXECUTION_FAILED ; GPU=0', 'engine_died'],
  ['bfc_arena.cc:359 Failed to allocate memory for requested buffer of size 256', 'engine_failed'],
  [
    'expected 9 bytes of device memory but 3 of 8 are free (Expected CUDA to do cudaMalloc(a) but it answered cudaErrorMemoryAllocation: out of memory)',
    'engine_failed',
  ],
  [
    `${inOurs}Expected CUDA to do launch a kernel but it answered cudaErrorLaunchFailure: unspecified launch failure`,
    'engine_died',
  ],
  [
    `${inOurs}Expected cuBLASLt to multiply matrices but it answered CUBLAS_STATUS_EXECUTION_FAILED`,
    'engine_died',
  ],
  [
    `${inOurs}Expected cuBLASLt to multiply matrices but it answered CUBLAS_STATUS_ALLOC_FAILED`,
    'engine_failed',
  ],
  [
    `${inOurs}Expected cuBLASLt to have an algorithm for bf16 products of 1 × 8 × 8 but this device has none`,
    'engine_failed',
  ],
])('%s: %s', (words, code) => {
  for (const failure of [runFailure, loadFailure]) {
    const { code: got, message } = failure(new Error(words))
    expect(got).toBe(code)
    expect(message).toContain(`(Error: ${words.split(' ; ')[0]})`)
    expect(message).not.toContain('hostname')
  }
})

test('what was said for the caller stays as it is', () => {
  const known = invalidCheckpoint('Expected weights but there are none')
  expect(gpuFailure('the GPU to take the weights', known)).toBe(known)
})
