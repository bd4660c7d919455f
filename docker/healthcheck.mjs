/** Ends with 0 when the server in this container takes predictions. */
const { FLUXD_PORT = '5000' } = process.env

const reply = await fetch(`http://127.0.0.1:${FLUXD_PORT}/readyz`).catch((error) => error)
if (reply instanceof Error || !reply.ok) {
  process.stderr.write(
    `not ready: ${reply instanceof Error ? reply.message : await reply.text()}\n`,
  )
  process.exitCode = 1
}
