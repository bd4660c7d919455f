/** Where a file of weights is to be had, before a byte of it was read. */

/** A value that is shown as *** wherever it is printed. */
export type Secret = { readonly reveal: () => string }

export type RemoteFile = {
  readonly url: string
  /** A token for the URL's own server. */
  readonly bearer: string | undefined
  /** As its host tells it, in lower case. */
  readonly sha256: string | undefined
}

/** A server that a form of a reference stands for: its address without a slash at the end. */
export type Host = { readonly url: string; readonly token: Secret | undefined }

/** The host's token if `address` is the host's, else nothing: it is nobody else's business. */
export const bearerFor = (address: string, { url, token }: Host): string | undefined =>
  URL.canParse(address) && new URL(address).origin === new URL(url).origin
    ? token?.reveal()
    : undefined
