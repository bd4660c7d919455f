/**
 * An uploaded file on `/v1`. `name` and `etag` are in no OpenAPI document, but clients require
 * them.
 */
import { z } from 'zod'

/** The metadata that a client may send with an upload. */
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
    /**
     * `get` describes the file; `download`, an addition of fluxd, is signed and returns its bytes.
     */
    urls: z.object({ get: z.string(), download: z.string() }),
  })
  .meta({ title: 'File' })
export type File = z.output<typeof File>
