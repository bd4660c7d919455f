/**
 * An uploaded file on `/v1`: `name` and `etag` are in no OpenAPI document, but clients demand them.
 */
import { z } from 'zod'

/** What a client may say of an upload besides its bytes. */
export const FileMetadata = z.record(z.string(), z.unknown())

export const File = z
  .object({
    id: z.string(),
    name: z.string(),
    content_type: z.string(),
    size: z.int(),
    /** The MD5 of the bytes, as in `checksums`. */
    etag: z.string(),
    checksums: z.object({ sha256: z.string(), md5: z.string() }),
    metadata: FileMetadata,
    created_at: z.string().meta({ format: 'date-time' }),
    expires_at: z.string().meta({ format: 'date-time' }),
    /** `get` tells of the file; `download`, our addition, is signed and holds its bytes. */
    urls: z.object({ get: z.string(), download: z.string() }),
  })
  .meta({ title: 'File' })
export type File = z.output<typeof File>
