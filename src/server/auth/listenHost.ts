/** Where a server may listen. */
import ipaddr from 'ipaddr.js'

/** Whether only this machine can reach `host`. */
export const isLoopback = (host: string) =>
  host === 'localhost' || (ipaddr.isValid(host) && ipaddr.process(host).range() === 'loopback')

/** The host to listen on: without a key a server is for its own machine only. */
export const chooseHost = (requested: string, hasKeys: boolean) =>
  hasKeys || isLoopback(requested) ? requested : '127.0.0.1'
