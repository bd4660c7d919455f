/** What an orchestrator asks: is the process alive, and may it be sent predictions. */
import { mkdir, writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import type { FastifyInstance } from 'fastify'

/** `listReasons` says why the server takes no predictions now; none means that it does. */
export function probeRoutes(app: FastifyInstance, listReasons: () => readonly string[]): void {
  const config = { access: 'public' } as const

  app.get('/livez', { config }, () => ({ status: 'alive' }))

  app.get('/readyz', { config }, (_request, reply) => {
    const reasons = listReasons()
    return reply
      .code(reasons.length === 0 ? 200 : 503)
      .send(reasons.length === 0 ? { status: 'ready' } : { status: 'not ready', reasons })
  })
}

/** Makes the file, empty, that Kubernetes looks for in a Cog container (replicate-contract §2.2). */
export async function touchReadyFile(path: string): Promise<void> {
  await mkdir(dirname(path), { recursive: true })
  await writeFile(path, '')
}
