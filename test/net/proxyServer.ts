/** A proxy on 127.0.0.1 for tests, which keeps what it is asked for. */
import { createServer as createHttpServer, type IncomingMessage } from 'node:http'
import { type AddressInfo, connect, type Server, type Socket } from 'node:net'
import { onTestFinished } from 'vitest'
import type { ProxySettings } from '../../src/net/proxy.js'

/** Listens on a free port of 127.0.0.1 until the test has ended. */
export async function listen(server: Server): Promise<number> {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    server.close()
  })
  return (server.address() as AddressInfo).port
}

/** A proxy that connects to 127.0.0.1, whatever address it is asked for. */
export async function startProxy(status = 200) {
  const asked: IncomingMessage[] = []
  const server = createHttpServer()
  server.on('connect', (request: IncomingMessage, client: Socket) => {
    asked.push(request)
    if (status !== 200) return client.end(`HTTP/1.1 ${status} No\r\ncontent-length: 0\r\n\r\n`)
    const target = connect(Number(request.url!.split(':').at(-1)), '127.0.0.1', () => {
      client.write('HTTP/1.1 200 OK\r\n\r\n')
      target.pipe(client).pipe(target)
    })
    target.on('error', () => client.destroy())
    client.on('error', () => target.destroy())
  })
  server.on('request', (request, response) => {
    asked.push(request)
    response.end('forwarded')
  })
  const port = await listen(server)
  return { url: `http://127.0.0.1:${port}`, targets: () => asked.map(({ url }) => url), asked }
}

/** The settings that use the proxy at `url` for everything but `exclude`. */
export const through = (url: string, exclude: readonly string[] = []): ProxySettings => {
  const secret = { reveal: () => url }
  return { http: secret, https: secret, exclude }
}
