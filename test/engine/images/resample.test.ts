/** Resampling against Pillow 12.3: `Image.fromarray(source).resize(size, Image.LANCZOS)`. */
import { expect, test } from 'vitest'
import { resize } from '../../../src/engine/images/resample.js'
import { noisePicture } from './images.js'

const pillow = [
  {
    name: 'larger',
    size: { width: 16, height: 16 },
    want: '/+f08MNj2FZD/xH//6qXq/8lAJGiADL/RyD/aDbfWyjrGQDKNgCR6QiTjG86ALIA4ae41LlGyHoxyxDX24Z6jfYoFa+UK2LNaDPIcCizbyi7MCCcMRx9xjilfm1jBYsWcz5WoKMaq7EWYxJ7YkpLWMwyR9p+hbB1oFVggxhqjjBrVFpSK3FgiYnAZGupGUtlAAAGVYURir0fJRckAAwrF4BTY9tvz/Un2YgAoBkXq1AfdLAdJNJQOMDOOGTcJSmtAE0hGGtcfGVsdB4fEQBHACiNPYN6vO0u5bEAuz4ArIgdcvdBH/5pAJayC1vAF2SsALZ0BF2negys7jRWah10AACqFSSXc6h5x7k60noYj8BTVf+ROeGcEFyPB1+JD6OPMLehFVidbhaT/2GGnFZ4JB+KMhW1P2LLpp+f9LVtZOuGONjAg5zFaniKPHWEKH+hZmuoN1plYWJO7IyinoJlVVxSej/COC73inPi/ty4Q/ioLZTPylzfz8mdhJqhVDPIdUS+PlhoXIBF5JCnnHJrYlRLqEmsWRPbd13BzeqdReitPHnjwF731+27ncGwb1DKXFvTLFerYGKH+XCdlTWNRxF7pyiAlROFcmFSc9k1ZcKfY5H6caD/gNTHeduhbcehWGiyQGPHdl3E3lCWciKeKBOsiTCJwRtPfU8KMqYXjYeqiY7+KsPcOLyhSdNwSPBlhE5ZjIGYlpHUg0uhOFyPH4W8Z3XVxxZmjRcqKmSAo0rgmlPuIZmRPMNJM64tEY4volEEwqdXnL3LIk24FalzPPuWWqj0uiSKoAR3STX4kSj/mSzAWW5Ga8UIOYgWATAvgZIApMRHeq7KAETLJ8JjcP9NdYmZt1B7rUCbYTP9XjHcj1KFq4cqi6gcUYJON1lwUNYJbNJUUYrMAznVS7dfnNoPmVAovHdYsoqdbEjKLkqnhoxa6bYwmIlQaY+VeLK2Mv0cSNdeOHLLDTTaZK5etbsAsCwAvo1EtLaedFinEl2Ff7BE/9I5oHdzeJjBoejh',
  },
  {
    name: 'smaller',
    size: { width: 5, height: 7 },
    want: '8YiFrJV6MmDJXwy+Z1hTSFkPJ29Et5wne34uLIe/Ul2UWg+SeoJnftV1D4CVbm1ykmxzeWjRh7jJpoe/aGS8iCChf0c1Yaq3StWhmIdlNbqnizy9gD+3P4MTO62EbIdTonRlfYF2nKiF',
  },
  {
    name: 'lower',
    size: { width: 11, height: 3 },
    want: 'YXpjmZIzlBV/WIRELaOIkpp4oTJhc3JsL4VpdmK0FWZwPGKYQ1KE4miAJyp7cz2tf1WGtbZXW8Owbp7YZ76URYGfe5MygrCyNUi+X8xTiWaDvT5kTVe5eEjNlJNlcKpNS5Zw',
  },
  {
    name: 'wider',
    size: { width: 16, height: 7 },
    want: '/MPS4L1Tz2o56BDv+5aHmv4nCKKaE03lWivkbS7GZijQJhKwMweG1SOdhG5RAJwCAQAJWocPjL8cJRcoAA8sG4ZQY95vzPIq1oQAnhgcqk0jc6oeJcxQPr/OPGXbJSmqAMGCBVuteAWu/zxieih5AACoFRmeZZiLwLZP2YcnhstfTv+fRdWmHlqLDmKDEaSOdE6wQFpbXXs+4ZSnnINjYmRGl0y8RB3zf2Pg7ea6P/OuMX7X0VLr4uSsma6sZTDPVGm/Nl/IcFm76lWWfB+dLQikkSiAuxpUelcRO7MRhZWkgpT/NcLoQb6uUth9UvRyoVQAwqpUm77LHU26Fa1xP/+RW6jxuSeLoQZ7SzP8jif/mCy8X25CbsQHOoYYAy8yQ+cSXNRZRn/MCDfXVrNfp8wAo0ALvYFPs52db0+6IlKYg5xR+MI0m4Ffb5OoisrJ',
  },
]

test.each(pillow)('a $name image is that of Pillow, byte for byte', ({ size, want }) => {
  const { rgb, size: from } = noisePicture
  expect(Buffer.from(resize(rgb, from, size, 'lanczos')).toString('base64')).toBe(want)
})

test('an image of the same size is unchanged', () => {
  const { rgb, size } = noisePicture
  expect(resize(rgb, size, size, 'lanczos')).toEqual(rgb)
})
