// A foreign peer: js-libp2p dials a node and speaks what docs/protocol.md says. Prints one JSON object.
//
//     node client.mjs '{"address": multiaddress, "federation": id, "seed": hex, "ticket": text}'
//
// First as a stranger without a ticket, then as the peer of `seed` and `ticket` without the manifest, then with
// a term of it altered, then with all of them as they are.
import { randomBytes } from 'node:crypto'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { generateKeyPair, generateKeyPairFromSeed } from '@libp2p/crypto/keys'
import { identify } from '@libp2p/identify'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { Reader, answer, digest, frame, pack, request, unpack } from './wire.mjs'

Promise.withResolvers ??= function () { // before Node 22
  let resolve, reject
  const promise = new Promise((...both) => { [resolve, reject] = both })
  return { promise, resolve, reject }
}

const asked = JSON.parse(process.argv[2])
const ADMISSION = '/p2pfl/admission/1'
const ACCEPTED = Buffer.of(0)

/** A libp2p node with `key`, and what the peer says to it on its stream of messages. */
async function start (key) {
  const node = await createLibp2p({
    privateKey: key,
    transports: [tcp()],
    connectionEncrypters: [noise()],
    streamMuxers: [yamux()],
    services: { identify: identify(), ping: ping() }
  })
  const heard = []
  const prefix = `/p2pfl/${asked.federation}`
  await node.handle(`${prefix}/messages/1`, stream => listen(stream, heard).catch(() => {}))
  const answers = { signed: Buffer.alloc(0), summary: pack([[], false]), manifest: 'none here', dialback: 'no listener' }
  for (const [name, response] of Object.entries(answers)) {
    await node.handle(`${prefix}/request/${name}/1`, stream => answer(stream, response).catch(() => {}))
  }
  return { node, heard }
}

async function listen (stream, heard) {
  const reader = new Reader(stream)
  for (;;) {
    const [tag, fields] = unpack(await reader.frame())
    heard.push({ tag, author: unpack(fields)[0] })
  }
}

/** Section 4, as the dialler: null if both accept, else the peer's reason. */
async function admit (connection, ticket, terms) {
  const stream = await connection.newStream(ADMISSION)
  const reader = new Reader(stream)
  const greeting = {
    clock: Math.floor(Date.now() / 1000),
    federation: Buffer.from(asked.federation, 'hex'),
    ticket,
    versions: [1],
    ...(terms && { terms })
  }
  stream.send(frame(Buffer.concat([randomBytes(16), pack(greeting)])))
  const verdict = await reader.frame()
  if (!verdict.equals(ACCEPTED)) return verdict.subarray(1).toString()
  const theirs = unpack((await reader.frame()).subarray(16))
  if (!Buffer.from(theirs.federation).equals(greeting.federation) || !theirs.versions.includes(1)) {
    throw new Error('the other is of another federation or version')
  }
  stream.send(frame(ACCEPTED))
  const again = await reader.frame()
  await stream.close()
  return again.equals(ACCEPTED) ? null : again.subarray(1).toString()
}

const failure = promise => promise.then(() => null, error => `${error.name}: ${error.message}`)

/** Dial anew with `key`, and do `act` over that connection. */
async function visit (key, act) {
  const { node, heard } = await start(key)
  try {
    return await act(await node.dial(multiaddr(asked.address)), node, heard)
  } finally {
    await node.stop()
  }
}

async function asStranger (connection, node) {
  const { agentVersion, protocols } = await node.services.identify.identify(connection)
  const milliseconds = await node.services.ping.ping(multiaddr(asked.address))
  const early = await failure(request(connection, asked.federation, 'manifest'))
  return { agentVersion, protocols, milliseconds, early, reason: await admit(connection, '') }
}

async function asMember (connection, node, heard) {
  const reason = await admit(connection, asked.ticket)
  if (reason !== null) return { reason }
  await connection.newStream(`/p2pfl/${asked.federation}/messages/1`)
  const ask = (name, question) => request(connection, asked.federation, name, question)
  const manifest = await ask('manifest')
  const [states, done] = unpack(await ask('summary'))
  const state = states.length === 0 ? null : await ask('state', Buffer.from(states[0][1]))
  return {
    reason,
    peer: node.peerId.toString(),
    federation: digest('p2pfl/manifest-digest/v1', manifest).toString('hex'),
    manifest: unpack(manifest).manifest,
    rounds: states.map(([round]) => round),
    done,
    promised: state && Buffer.from(states[0][1]).toString('hex'),
    state: state && digest('p2pfl/state-digest/v1', state).toString('hex'),
    released: state && unpack(state)[0],
    signed: (await ask('signed')).length,
    unknown: await failure(ask('state', Buffer.alloc(32))),
    heard: await firstHeard(heard)
  }
}

/** The messages that came, once there is one. */
async function firstHeard (heard) {
  for (let tries = 0; heard.length === 0 && tries < 100; tries++) {
    await new Promise(resolve => setTimeout(resolve, 100))
  }
  return heard
}

const termsOf = manifest => Object.fromEntries(
  Object.entries(manifest).map(([name, field]) =>
    [name, digest('p2pfl/term/v1', pack(field)).toString('hex').slice(0, 16)])
)

const key = await generateKeyPairFromSeed('Ed25519', Buffer.from(asked.seed, 'hex'))
const stranger = await visit(await generateKeyPair('Ed25519'), asStranger)
const member = await visit(key, asMember)
const terms = termsOf(member.manifest ?? {})
const altered = await visit(key, connection => admit(connection, asked.ticket, { ...terms, model: '0'.repeat(16) }))
const alike = await visit(key, connection => admit(connection, asked.ticket, terms))
console.log(JSON.stringify({ stranger, member, altered, alike }))
process.exit(0)
