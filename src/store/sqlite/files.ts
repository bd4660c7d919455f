/** What is known of each file; its bytes are not here. */
import type { Database } from './database.js'

/** `input` is what came inside the input of a prediction. */
export type FileKind = 'upload' | 'output' | 'input'

export type StoredFile = {
  /** Unguessable: whoever knows it may read the file. */
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
   * An upload is on disk when it returns, an input with the admission and an output with the end of its
   * prediction. Throws `storage_full`.
   */
  readonly insert: (file: StoredFile) => void
  readonly find: (id: string) => StoredFile | undefined
  /** Newest first; `before` is a sequence. */
  readonly list: (kind: FileKind, page: FilePage) => ListedFile[]
  /** True when it was there. */
  readonly remove: (id: string) => boolean
  readonly listOfPrediction: (predictionId: string) => StoredFile[]
  /** Inputs whose predictions were never admitted. */
  readonly listAbandoned: () => StoredFile[]
  readonly listExpired: (time: Date, limit: number) => StoredFile[]
  readonly totalSize: () => number
}

type Row = {
  readonly sequence: number
  readonly id: string
  readonly kind: FileKind
  readonly name: string
  readonly content_type: string
  readonly size: number
  readonly md5: string
  readonly sha256: string
  readonly metadata_json: string
  readonly prediction_id: string | null
  readonly key_id: string | null
  readonly created_at: number
  readonly expires_at: number | null
}

export function createFileStore({ sqlite, commit, commitLater }: Database): FileStore {
  const insertRow = sqlite.prepare<Omit<Row, 'sequence'>>(`
    INSERT INTO files (id, kind, name, content_type, size, md5, sha256, metadata_json,
      prediction_id, key_id, created_at, expires_at)
    VALUES (@id, @kind, @name, @content_type, @size, @md5, @sha256, @metadata_json,
      @prediction_id, @key_id, @created_at, @expires_at)`)
  const byId = sqlite.prepare<[string], Row>('SELECT * FROM files WHERE id = ?')
  const page = sqlite.prepare<[string, number, number], Row>(`
    SELECT * FROM files WHERE kind = ? AND sequence < ? ORDER BY sequence DESC LIMIT ?`)
  const deleteRow = sqlite.prepare<[string]>('DELETE FROM files WHERE id = ?')
  const ofPrediction = sqlite.prepare<[string], Row>('SELECT * FROM files WHERE prediction_id = ?')
  const abandoned = sqlite.prepare<[], Row>(`
    SELECT * FROM files WHERE kind = 'input' AND prediction_id NOT IN (SELECT id FROM predictions)`)
  const expired = sqlite.prepare<[number, number], Row>(`
    SELECT * FROM files WHERE expires_at IS NOT NULL AND expires_at <= ?
    ORDER BY expires_at LIMIT ?`)
  const total = sqlite.prepare<[], { bytes: number }>(
    'SELECT COALESCE(SUM(size), 0) AS bytes FROM files',
  )
  return {
    insert(file) {
      // Without what is written of its prediction after it, it means nothing.
      const write = file.kind === 'upload' ? commit : commitLater
      write(() => insertRow.run(toColumns(file)))
    },
    find: (id) => toFile(byId.get(id)),
    list: (kind, { limit, before = Number.MAX_SAFE_INTEGER }) =>
      page.all(kind, before, limit).map((row) => ({ sequence: row.sequence, file: toFile(row)! })),
    remove: (id) => deleteRow.run(id).changes > 0,
    listOfPrediction: (id) => ofPrediction.all(id).map((row) => toFile(row)!),
    listAbandoned: () => abandoned.all().map((row) => toFile(row)!),
    listExpired: (time, limit) => expired.all(time.getTime(), limit).map((row) => toFile(row)!),
    totalSize: () => total.get()!.bytes,
  }
}

const toColumns = (file: StoredFile): Omit<Row, 'sequence'> => ({
  id: file.id,
  kind: file.kind,
  name: file.name,
  content_type: file.contentType,
  size: file.size,
  md5: file.md5,
  sha256: file.sha256,
  metadata_json: JSON.stringify(file.metadata),
  prediction_id: file.predictionId ?? null,
  key_id: file.keyId ?? null,
  created_at: file.createdAt.getTime(),
  expires_at: file.expiresAt?.getTime() ?? null,
})

const toFile = (row: Row | undefined): StoredFile | undefined =>
  row && {
    id: row.id,
    kind: row.kind,
    name: row.name,
    contentType: row.content_type,
    size: row.size,
    md5: row.md5,
    sha256: row.sha256,
    metadata: JSON.parse(row.metadata_json),
    predictionId: row.prediction_id ?? undefined,
    keyId: row.key_id ?? undefined,
    createdAt: new Date(row.created_at),
    expiresAt: row.expires_at === null ? undefined : new Date(row.expires_at),
  }
