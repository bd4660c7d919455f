/** What the networks run on, and the dialect for it. */
import { type Backend, portableBackend } from './backend.js'
import { createCudaBackend } from './cudaBackend.js'

export type Device = 'cpu' | 'cuda'

/** The backend of a device. Nothing is opened yet: the first session tells what is wrong with it. */
export const openBackend = (device: Device): Backend =>
  device === 'cuda' ? createCudaBackend('flash') : portableBackend
