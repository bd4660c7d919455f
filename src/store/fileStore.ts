/** The port of what is known of each file; its bytes are in files/. */

/** `input` is what came inside the input of a prediction. */
export type FileKind = 'upload' | 'output' | 'input'

export type StoredFile = {
  /** Unguessable: it is all that is needed to read the file. */
  readonly id: string
  readonly kind: FileKind
  readonly name: string
  readonly contentType: string
  /** Bytes. */
  readonly size: number
  /** Hexadecimal. */
  readonly md5: string
  readonly sha256: string
  readonly metadata: Readonly<Record<string, unknown>>
  /** The prediction whose input or output it is. */
  readonly predictionId?: string | undefined
  /** The API key that uploaded it. */
  readonly keyId?: string | undefined
  readonly createdAt: Date
  /** Absent: it is kept as long as its prediction's data. */
  readonly expiresAt?: Date | undefined
}

export type FilePage = { readonly limit: number; readonly before?: number | undefined }
export type ListedFile = { readonly sequence: number; readonly file: StoredFile }

export type FileStore = {
  /**
   * An upload is on disk when it resolves, an input with the admission and an output with the end
   * of its prediction. Throws `storage_full`.
   */
  readonly insert: (file: StoredFile) => Promise<void>
  readonly find: (id: string) => Promise<StoredFile | undefined>
  /** Newest first; `before` is a sequence. */
  readonly list: (kind: FileKind, page: FilePage) => Promise<ListedFile[]>
  /** True when it was there. */
  readonly remove: (id: string) => Promise<boolean>
  readonly listOfPrediction: (predictionId: string) => Promise<StoredFile[]>
  /** Inputs whose predictions were never admitted. */
  readonly listAbandoned: () => Promise<StoredFile[]>
  readonly listExpired: (time: Date, limit: number) => Promise<StoredFile[]>
  readonly totalSize: () => Promise<number>
}
