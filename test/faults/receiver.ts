/** A receiver of webhooks that is down now and then: it answers every third request with 503. */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { onTestFinished } from 'vitest'

export type Receiver = {
  readonly url: string
  /** The status that each prediction was told to have ended with, by its id. */
  readonly told: ReadonlyMap<string, string>
}

export async function startReceiver(): Promise<Receiver> {
  const told = new Map<string, string>()
  let requests = 0
  const server = createServer(async (request, response) => {
    let text = ''
    for await (const chunk of request) text += chunk
    const isDown = ++requests % 3 === 0
    if (!isDown) {
      const { id, status } = JSON.parse(text) as { id: string; status: string }
      told.set(id, status)
    }
    response.writeHead(isDown ? 503 : 200).end()
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => void server.close())
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`, told }
}
