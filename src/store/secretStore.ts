/** The port of secrets that the servers make for themselves once and keep. */

/** What signs webhooks, and what signs the URLs of uploaded files. */
export type SecretName = 'webhooks' | 'downloads'

export type SecretStore = {
  /** The bytes of the secret `name`, made when it is read for the first time. */
  readonly read: (name: SecretName) => Promise<Buffer>
}

/** The text in which clients get the secret of webhooks: `whsec_` and standard base64. */
export const toWebhookKey = (secret: Buffer) => `whsec_${secret.toString('base64')}`
