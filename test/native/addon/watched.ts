/** The addon as it is, with an account of its device tensors and of its runs. */
import type {
  Addon,
  DeviceTensor,
  NativeSession,
} from '../../../src/engine/runtime/backends/native/addon.js'
import { addon } from './kit.js'

export type Account = {
  /** Tensors that were made and not released. */
  readonly live: Set<DeviceTensor>
  made: number
  /** Releases of tensors that had been released. */
  surplus: number
  copies: number
  loads: number
  runs: number
  /** Called before each write or load of a session, which fails where this throws. */
  onWrite: () => void
  onLoad: () => void
  /** Makes each run; `start` enqueues it. */
  onRun: <Result>(start: () => Promise<Result>) => Promise<Result>
}

export function watchAddon(): { readonly watched: Addon; readonly account: Account } {
  const account: Account = {
    live: new Set(),
    made: 0,
    surplus: 0,
    copies: 0,
    loads: 0,
    runs: 0,
    onWrite: () => {},
    onLoad: () => {},
    onRun: (start) => start(),
  }

  function watchTensor(tensor: DeviceTensor): DeviceTensor {
    const { write, copyFrom, release } = tensor
    account.live.add(tensor)
    account.made++
    return shadow(tensor, {
      write(values: Parameters<typeof write>[0]) {
        account.onWrite()
        return write.call(tensor, values)
      },
      copyFrom(other: DeviceTensor) {
        account.copies++
        return copyFrom.call(tensor, other)
      },
      release() {
        if (!account.live.delete(tensor)) account.surplus++
        return release.call(tensor)
      },
    })
  }

  function watchSession(session: NativeSession): NativeSession {
    const { load, run } = session
    return shadow(session, {
      load(...args: Parameters<typeof load>) {
        account.loads++
        account.onLoad()
        return load.apply(session, args)
      },
      run(...args: Parameters<typeof run>) {
        account.runs++
        return account.onRun(() => run.apply(session, args))
      },
    })
  }

  const watched = {
    ...addon,
    Tensor: watchMaker(addon.Tensor, watchTensor),
    Session: watchMaker(addon.Session, watchSession),
  }
  return { watched, account }
}

/** The class, with `watch` in the way of what it makes. */
const watchMaker = <Made extends object, Args extends unknown[]>(
  maker: new (...args: Args) => Made,
  watch: (made: Made) => Made,
) => new Proxy(maker, { construct: (_, args) => watch(new maker(...(args as Args))) })

/** The object itself, with methods of its own before those of its class, which are read-only. */
const shadow = <Made extends object>(made: Made, methods: Partial<Made>): Made =>
  Object.defineProperties(
    made,
    Object.fromEntries(Object.entries(methods).map(([name, value]) => [name, { value }])),
  )
