/** A file on another server and what is known of it before the download; tokens of its host. */

/** A value that prints as ***. */
export type Secret = { readonly reveal: () => string }

export type RemoteFile = {
  readonly url: string
  /** A token for the URL's own server. */
  readonly bearer: string | undefined
  /** The digest that the host announces, in lower case. */
  readonly sha256: string | undefined
}

/** A configured server, such as Hugging Face; `url` has no slash at its end. */
export type Host = { readonly url: string; readonly token: Secret | undefined }

/** The host's token if `address` has the host's origin; no other server gets it. */
export const bearerFor = (address: string, { url, token }: Host): string | undefined =>
  URL.canParse(address) && new URL(address).origin === new URL(url).origin
    ? token?.reveal()
    : undefined
