/** The body of `GET /health-check` in Cog's words (C-2.2). */
import { z } from 'zod'

export const healthStatuses = [
  'UNKNOWN',
  'STARTING',
  'READY',
  'BUSY',
  'SETUP_FAILED',
  'DEFUNCT',
] as const
export type HealthStatus = (typeof healthStatuses)[number]

export const HealthCheck = z
  .object({
    status: z.enum(healthStatuses).meta({ title: 'Health', description: 'An enumeration.' }),
    setup: z.object({
      started_at: z.string().meta({ format: 'date-time' }),
      completed_at: z.string().optional().meta({ format: 'date-time' }),
      status: z.enum(['starting', 'succeeded', 'failed']),
      logs: z.string(),
    }),
    /** Not in Cog's body; Cog's clients ignore it. */
    safety_checker: z.enum(['installed', 'none']),
  })
  .meta({ title: 'HealthCheck' })
export type HealthCheck = z.output<typeof HealthCheck>
