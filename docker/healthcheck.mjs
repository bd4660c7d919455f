/**
 * Ends with 0 when the server in this container is alive. Not `/readyz`: a server with a full queue is
 * not ready, and must not be restarted for it.
 */
const { FLUXD_PORT = '5000' } = process.env

const reply = await fetch(`http://127.0.0.1:${FLUXD_PORT}/livez`).catch((error) => error)
if (reply instanceof Error || !reply.ok) {
  process.stderr.write(
    `not alive: ${reply instanceof Error ? reply.message : await reply.text()}\n`,
  )
  process.exitCode = 1
}
