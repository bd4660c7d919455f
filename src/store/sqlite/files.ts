/** What is known of files, in SQLite. */
import type { FileKind, FileStore, StoredFile } from '../fileStore.js'
import type { Database } from './database.js'

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

export function createFileStore({ sqlite, write, writeLater }: Database): FileStore {
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
    async insert(file) {
      // An input or an output means nothing without what is written of its prediction after it.
      const insert = file.kind === 'upload' ? write : writeLater
      await insert(() => insertRow.run(toColumns(file)))
    },
    find: async (id) => toFile(byId.get(id)),
    list: async (kind, { limit, before = Number.MAX_SAFE_INTEGER }) =>
      page.all(kind, before, limit).map((row) => ({ sequence: row.sequence, file: toFile(row)! })),
    remove: (id) => write(() => deleteRow.run(id).changes > 0),
    listOfPrediction: async (id) => ofPrediction.all(id).map((row) => toFile(row)!),
    listAbandoned: async () => abandoned.all().map((row) => toFile(row)!),
    listExpired: async (time, limit) =>
      expired.all(time.getTime(), limit).map((row) => toFile(row)!),
    totalSize: async () => total.get()!.bytes,
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
