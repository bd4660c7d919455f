import { randomBytes } from 'node:crypto'

/** Crockford's alphabet: 32 letters and digits, none of which is taken for another. */
const alphabet = '0123456789abcdefghjkmnpqrstvwxyz'

/** 26 unguessable characters [a-z0-9]: 130 bits. */
export const randomId = () => Array.from(randomBytes(26), (byte) => alphabet[byte & 31]).join('')
