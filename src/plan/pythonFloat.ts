/** 1 as `1.0`: a number as Python prints a float, for messages that clients may compare. */
export const pythonFloat = (value: number) =>
  Number.isInteger(value) ? value.toFixed(1) : String(value)
