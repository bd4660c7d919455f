/** What placing inputs is compared with. */
import type { Backend } from '../../src/engine/runtime/backends/backend.js'
import {
  createRunnable,
  mapValues,
  type Session,
} from '../../src/engine/runtime/backends/ort/session.js'

/** The backend, whose sessions send every input with every run. */
export function withoutPlaces(backend: Backend): Backend {
  const send = <Name extends string>(sessions: Readonly<Record<Name, Session>>) =>
    mapValues<Session, Session>(sessions, (session) => ({
      ...session,
      ...createRunnable(session.run),
    })) as Record<Name, Session>
  return {
    ...backend,
    createSessions: async (models, options) => send(await backend.createSessions(models, options)),
    async createAdaptable(models, options) {
      const { sessions, adaptable } = await backend.createAdaptable!(models, options)
      return { adaptable, sessions: send(sessions) }
    },
  }
}
