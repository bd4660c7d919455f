/** The small objects of `/v1` about the server itself (C-3.12). */
import { z } from 'zod'

export const Account = z.object({
  type: z.enum(['user', 'organization']),
  username: z.string(),
  name: z.string(),
  github_url: z.string().nullable(),
  avatar_url: z.string().nullable(),
})
export type Account = z.output<typeof Account>

export const Hardware = z.object({ sku: z.string(), name: z.string() })
export type Hardware = z.output<typeof Hardware>

export const WebhookSecret = z.object({ key: z.string() })
export type WebhookSecret = z.output<typeof WebhookSecret>
