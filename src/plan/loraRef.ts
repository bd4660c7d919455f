/** A LoRA of a request, before its file is there. */
export type LoraRef = {
  /** Which of the contract's two fields it stands for, or for whose catalog model it came. */
  readonly role: 'main' | 'extra'
  /** What logs and errors call it: never a path, never a secret. */
  readonly name: string
  /** The reference as it was sent, or as the catalog has it. */
  readonly source: string
  /** Where it lies, if it is a file of the catalog; others are fetched. */
  readonly path?: string
  readonly sha256?: string
  /** The model's times the request's; the plan multiplies it by go_fast's factor. */
  readonly scale: number
}
