/** Deployments in SQLite. */
import type { DeploymentStore, StoredDeployment } from '../deploymentStore.js'
import type { Database } from './database.js'

export const deploymentTable = `
  CREATE TABLE deployments (
    name TEXT PRIMARY KEY,
    number INTEGER NOT NULL,
    model TEXT NOT NULL,
    version TEXT NOT NULL,
    hardware TEXT NOT NULL,
    min_instances INTEGER NOT NULL,
    max_instances INTEGER NOT NULL,
    created_at INTEGER NOT NULL
  ) STRICT`

type Row = {
  readonly name: string
  readonly number: number
  readonly model: string
  readonly version: string
  readonly hardware: string
  readonly min_instances: number
  readonly max_instances: number
  readonly created_at: number
}

export function createDeploymentStore({ sqlite, write }: Database): DeploymentStore {
  const columns =
    '@name, @number, @model, @version, @hardware, @min_instances, @max_instances, @created_at'
  const insert = sqlite.prepare<Row>(`INSERT OR IGNORE INTO deployments VALUES (${columns})`)
  const update = sqlite.prepare<Row>(`INSERT OR REPLACE INTO deployments VALUES (${columns})`)
  const find = sqlite.prepare<[string], Row>('SELECT * FROM deployments WHERE name = ?')
  const list = sqlite.prepare<[], Row>('SELECT * FROM deployments ORDER BY name')
  const remove = sqlite.prepare<[string]>('DELETE FROM deployments WHERE name = ?')
  return {
    insert: (deployment) => write(() => insert.run(toRow(deployment)).changes > 0),
    async find(name) {
      const row = find.get(name)
      return row && toDeployment(row)
    },
    list: async () => list.all().map(toDeployment),
    async update(deployment) {
      await write(() => update.run(toRow(deployment)))
    },
    remove: (name) => write(() => remove.run(name).changes > 0),
  }
}

const toRow = ({ minInstances, maxInstances, createdAt, ...same }: StoredDeployment): Row => ({
  ...same,
  min_instances: minInstances,
  max_instances: maxInstances,
  created_at: createdAt.getTime(),
})

const toDeployment = ({
  min_instances,
  max_instances,
  created_at,
  ...same
}: Row): StoredDeployment => ({
  ...same,
  minInstances: min_instances,
  maxInstances: max_instances,
  createdAt: new Date(created_at),
})
