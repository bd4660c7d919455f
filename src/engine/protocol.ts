/**
 * What the API process and an engine process say to each other. Everything is plain data that
 * survives structured clone; image bytes travel as Uint8Array.
 */
import type { ErrorRecord } from '../errors.js'
import type { GenerationPlan, PixelSize, Variant, WeightsPlan } from '../plan/plan.js'
import type { DrawSizes } from './models/memoryEstimate.js'
import type { StageSeconds } from './pipeline/generate.js'
import type { BackendKind, Device } from './runtime/backends/open.js'

/** What an engine process is started with. */
export type EngineConfig = {
  /** A diffusers folder or a BFL single file for each variant. */
  readonly checkpoints: Readonly<Record<Variant, string>>
  /** What the networks run on: the CPU by default. */
  readonly device?: Device
  /** Who runs them there: onnxruntime-node by default. */
  readonly backend?: BackendKind
  /** What the networks and their runs may fill of the device's memory; half of the machine by default. */
  readonly memoryBytes?: number | undefined
  /** What pictures are decoded in: float32 by default. */
  readonly vae?: 'float32' | 'float16'
  /** For how many sizes of pictures a step is replayed as a CUDA graph: none by default. */
  readonly cudaGraphs?: number
  /** Threads of a session's operators; 0 lets ONNX Runtime decide. */
  readonly threads: number
  /** Where merged LoRAs go that are too large for memory; by default the system's temporary folder. */
  readonly scratch?: string | undefined
  /** The safety checker's folder; without it no plan may want one. */
  readonly safety?: string | undefined
}

export type EngineCommand =
  | { readonly kind: 'load'; readonly variant: Variant }
  | { readonly kind: 'measure'; readonly image: Uint8Array }
  | {
      readonly kind: 'generate'
      readonly id: string
      readonly plan: GenerationPlan
      readonly wantsPreviews: boolean
    }
  /** What comes next; heard while something runs, and never answered. */
  | (WeightsPlan & { readonly kind: 'prepare' })
  /** Previews of what runs are wanted from now on, or are not. */
  | { readonly kind: 'preview'; readonly id: string; readonly isWanted: boolean }
  | { readonly kind: 'cancel'; readonly id: string }
  | { readonly kind: 'release'; readonly variant: Variant }
  | { readonly kind: 'shutdown' }

/** Seconds of one finished generation; `load` is what loading the variant added to it. */
export type GenerationTimings = StageSeconds & { readonly load: number }

export type GenerationEvent =
  /**
   * The plan's LoRAs, if it has any, are in place; switching to them took `seconds`. `notes` are
   * sentences about what of them is not merged.
   */
  | {
      readonly kind: 'adapted'
      readonly id: string
      readonly seconds: number
      readonly notes: readonly string[]
    }
  /** `step` of `steps` is done, for image `image` of the prediction. */
  | {
      readonly kind: 'progress'
      readonly id: string
      readonly image: number
      readonly step: number
      readonly steps: number
    }
  | {
      readonly kind: 'image'
      readonly id: string
      readonly index: number
      readonly bytes: Uint8Array
      readonly mimeType: string
    }
  /** What picture `image` will be like, as a small file. */
  | {
      readonly kind: 'preview'
      readonly id: string
      readonly image: number
      readonly step: number
      readonly steps: number
      readonly bytes: Uint8Array
      readonly mimeType: string
    }
  /** Picture `image` was judged unsafe: no `image` event follows. */
  | { readonly kind: 'flagged'; readonly id: string; readonly image: number }
  /** The safety checker broke down over a picture, which is flagged next. */
  | { readonly kind: 'safetyError'; readonly id: string; readonly reason: string }
  | { readonly kind: 'done'; readonly id: string; readonly timings: GenerationTimings }
  | { readonly kind: 'failed'; readonly id: string; readonly error: ErrorRecord }

export type EngineEvent =
  | { readonly kind: 'ready' }
  /** For the log; belongs to no command. */
  | { readonly kind: 'notice'; readonly message: string }
  | { readonly kind: 'loaded'; readonly variant: Variant }
  /** What predictions of a variant take, known once it has been opened. */
  | { readonly kind: 'sizes'; readonly variant: Variant; readonly sizes: DrawSizes }
  | { readonly kind: 'released'; readonly variant: Variant }
  | { readonly kind: 'loadFailed'; readonly variant: Variant; readonly error: ErrorRecord }
  /** The process ends next; `reason` completes the sentence "the engine process …". */
  | { readonly kind: 'lost'; readonly reason: string }
  | { readonly kind: 'measured'; readonly size: PixelSize }
  | { readonly kind: 'measureFailed'; readonly error: ErrorRecord }
  | GenerationEvent
