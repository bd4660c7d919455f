/**
 * The messages between a worker and an engine process. Everything is plain data that survives
 * structured clone; image bytes travel as Uint8Array.
 */
import type { ErrorRecord } from '../errors.js'
import type { LoraFile, PixelSize, Precision, Variant, WeightsPlan } from '../plan/plan.js'
import type { ValidDraft } from '../plan/planGeneration.js'
import type { StageSeconds } from './pipeline/stageClock.js'
import type { BackendKind, Device } from './runtime/backends/open.js'

/** What an engine process is started with. */
export type EngineConfig = {
  /** A diffusers folder or a BFL single file for each variant. */
  readonly checkpoints: Readonly<Record<Variant, string>>
  /** Where the networks run: on the CPU by default. */
  readonly device?: Device
  /** The library that runs them: onnxruntime-node by default. */
  readonly backend?: BackendKind
  /** Bytes of the device's memory for networks and runs; half of the machine's by default. */
  readonly memoryBytes?: number | undefined
  /** The dtype that images are decoded in: float32 by default. */
  readonly vae?: 'float32' | 'float16'
  /** For how many image sizes a step is replayed as a CUDA graph: none by default. */
  readonly cudaGraphs?: number
  /** Threads of a session's operators; 0 lets ONNX Runtime decide. */
  readonly threads: number
  /** The folder for merged LoRAs too large for memory; the system's temporary folder by default. */
  readonly scratch?: string | undefined
  /** The safety checker's folder; without it, plans with `checkSafety` fail. */
  readonly safety?: string | undefined
}

/** A draft with the bytes and files of its references; the engine reads the image's header. */
export type GenerateRequest = {
  readonly draft: ValidDraft
  readonly image?: Uint8Array | undefined
  readonly mask?: Uint8Array | undefined
  readonly loras: readonly LoraFile[]
}

/** An image as a file. */
export type EncodedImage = { readonly bytes: Uint8Array; readonly mimeType: string }

/** The device memory, in bytes, that predictions of a variant need. */
export type MemoryEstimate = {
  readonly capacity: number
  /** The models that must be loaded, by precision. */
  readonly weights: Readonly<Record<Precision, readonly MemoryPart[]>>
  /** The safety checker, where one is installed. */
  readonly checker: MemoryPart | undefined
  /** Of a run: whatever its size, and for each pixel. */
  readonly baseBytes: number
  readonly bytesPerPixel: number
}

export type MemoryPart = { readonly name: string; readonly bytes: number }

export type EngineCommand =
  | { readonly kind: 'load'; readonly variant: Variant }
  | (GenerateRequest & {
      readonly kind: 'generate'
      readonly id: string
      readonly wantsPreviews: boolean
    })
  /** The LoRAs of the next prediction; carried out during a run, and never answered. */
  | (WeightsPlan & { readonly kind: 'prefetch' })
  /** Whether previews of a prediction are sent from now on. */
  | { readonly kind: 'preview'; readonly id: string; readonly isWanted: boolean }
  | { readonly kind: 'cancel'; readonly id: string }
  | { readonly kind: 'release'; readonly variant: Variant }
  | { readonly kind: 'shutdown' }

/** Seconds of one finished generation; `load` is what loading the variant added to it. */
export type GenerationTimings = StageSeconds & { readonly load: number }

export type GenerationEvent =
  /** Its size in pixels, and that of the image that it starts from. */
  | {
      readonly kind: 'planned'
      readonly id: string
      readonly size: PixelSize
      readonly imageSize?: PixelSize | undefined
    }
  /**
   * The plan's LoRAs, if it has any, are in place; switching to them took `seconds`. `notes` are
   * sentences about what of them is not merged.
   */
  | {
      readonly kind: 'lorasReady'
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
  /** A preview of image `image`, as a small file. */
  | {
      readonly kind: 'preview'
      readonly id: string
      readonly image: number
      readonly step: number
      readonly steps: number
      readonly bytes: Uint8Array
      readonly mimeType: string
    }
  /** Image `image` was judged unsafe: no `image` event follows. */
  | { readonly kind: 'flagged'; readonly id: string; readonly image: number }
  /** The safety checker failed for an image, which is flagged next. */
  | { readonly kind: 'safetyError'; readonly id: string; readonly reason: string }
  | { readonly kind: 'done'; readonly id: string; readonly timings: GenerationTimings }
  | { readonly kind: 'failed'; readonly id: string; readonly error: ErrorRecord }

export type EngineEvent =
  | { readonly kind: 'ready' }
  /** For the log; belongs to no command. */
  | { readonly kind: 'warning'; readonly message: string }
  | { readonly kind: 'loaded'; readonly variant: Variant }
  /** Known once the variant has been opened. */
  | {
      readonly kind: 'memoryEstimate'
      readonly variant: Variant
      readonly estimate: MemoryEstimate
    }
  | { readonly kind: 'released'; readonly variant: Variant }
  | { readonly kind: 'loadFailed'; readonly variant: Variant; readonly error: ErrorRecord }
  /** The process ends next; `reason` completes the sentence "the engine process …". */
  | { readonly kind: 'deviceLost'; readonly reason: string }
  | GenerationEvent
