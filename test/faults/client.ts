/** A client that does not give up: what a server that dies does not answer is asked again. */
import { createHash } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { expect } from 'vitest'
import type { ServerProcess } from './serverProcess.js'

/** `outcome` is the state, or the error of a prediction that failed. */
export type Made = { readonly outcome: string; readonly digests: readonly string[] }

/** One POST, repeated under its key until it is acknowledged; returns the id. */
export async function create(
  server: () => ServerProcess,
  wish: object,
  key: string,
  webhook?: string,
): Promise<string> {
  for (;;) {
    try {
      const reply = await post(server(), wish, key, webhook)
      const body = (await reply.json()) as { id: string }
      expect([reply.status, body]).toEqual([201, expect.objectContaining({ id: body.id })])
      return body.id
    } catch (error) {
      // No reply, or half of one.
      if (!(error instanceof TypeError) && !(error instanceof SyntaxError)) throw error
      await delay(50)
    }
  }
}

export const post = ({ origin }: ServerProcess, wish: object, key: string, webhook?: string) =>
  fetch(`${origin}/v1/models/fluxd/flux/predictions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', 'idempotency-key': key },
    body: JSON.stringify({
      input: wish,
      ...(webhook && { webhook, webhook_events_filter: ['completed'] }),
    }),
  })

/** The prediction when it is terminal, with the digests of its pictures. */
export async function follow({ origin }: ServerProcess, id: string): Promise<Made> {
  for (;;) {
    const reply = await fetch(`${origin}/v1/predictions/${id}`)
    const body = (await reply.json()) as Body
    if (!['starting', 'processing'].includes(body.status))
      return {
        outcome: body.error ?? body.status,
        digests: await Promise.all((body.output ?? []).map(digest)),
      }
    await delay(50)
  }
}

type Body = {
  readonly status: string
  readonly output: readonly string[] | null
  readonly error: string | null
}

async function digest(url: string): Promise<string> {
  const bytes = Buffer.from(await (await fetch(url)).arrayBuffer())
  return createHash('sha256').update(bytes).digest('hex')
}
