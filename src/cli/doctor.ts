/** `fluxd doctor`: what works and what does not on this machine, with a fix for each problem. */
import { readBuild } from '../build.js'
import { type Config, embeddedModels } from '../config/config.js'
import { describeFinding, type Finding, listProblems } from '../doctor/diagnosis.js'
import { examine } from '../doctor/examination.js'
import type { MachinePlaces } from '../doctor/machine.js'
import { examineSetup } from '../doctor/setup.js'
import { isLoopback } from '../server/auth/listenHost.js'

type DoctorContext = {
  readonly config: Config
  readonly stdout: NodeJS.WritableStream
  readonly places?: MachinePlaces
}

/** Prints all findings, as lines or as JSON, and returns whether the server works as configured. */
export async function runDoctor(
  { json = false }: { readonly json?: boolean },
  { config, stdout, places }: DoctorContext,
): Promise<boolean> {
  const { version, ort } = readBuild()
  const setup = { ...config, isLoopback: isLoopback(config.host), embedded: embeddedModels }
  const findings: readonly Finding[] = [
    { subject: 'fluxd', verdict: 'ok', detail: `${version}, ONNX Runtime ${ort}` },
    ...(await examine(config, places)).findings,
    ...(await examineSetup(setup)),
  ]
  const works = listProblems(findings).length === 0
  const report = { version, works, findings }
  stdout.write(
    json ? `${JSON.stringify(report, null, 2)}\n` : findings.map(describeFinding).join(''),
  )
  return works
}
