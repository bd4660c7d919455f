/** `fluxd doctor`: what works and what does not on this machine, with a fix for each problem. */
import type { Config } from '../config/config.js'
import { describeFinding, listProblems } from '../doctor/diagnosis.js'
import { examine } from '../doctor/examination.js'
import type { MachinePlaces } from '../doctor/machine.js'

type DoctorContext = {
  readonly config: Config
  readonly stdout: NodeJS.WritableStream
  readonly places?: MachinePlaces
}

/** Prints a line for each finding and returns whether the server can work as configured. */
export async function runDoctor({ config, stdout, places }: DoctorContext): Promise<boolean> {
  const { findings } = await examine(config, places)
  stdout.write(findings.map(describeFinding).join(''))
  return listProblems(findings).length === 0
}
