// Conventions, frames, bodies and requests of docs/protocol.md, sections 1 and 2.
import { createHash } from 'node:crypto'
import { decode, encode } from '@msgpack/msgpack'

export const pack = value => Buffer.from(encode(value, { sortKeys: true }))

/** What `bytes` decode to; they must be canonical. */
export function unpack (bytes) {
  const value = decode(bytes)
  if (!pack(value).equals(Buffer.from(bytes))) throw new Error('not in canonical form')
  return value
}

export const sha256 = (...parts) => createHash('sha256').update(Buffer.concat(parts)).digest()
export const digest = (label, data) => sha256(Buffer.from(label), Buffer.of(0), data)

export function frame (bytes) {
  const length = Buffer.alloc(4)
  length.writeUInt32BE(bytes.length)
  return Buffer.concat([length, bytes])
}

export function body (bytes) {
  const length = Buffer.alloc(8)
  length.writeBigUInt64BE(BigInt(bytes.length))
  return Buffer.concat([length, bytes, sha256(bytes)])
}

/** Reads what is of a known length from a stream that comes in pieces. */
export class Reader {
  constructor (stream) {
    this.pieces = stream[Symbol.asyncIterator]()
    this.held = Buffer.alloc(0)
  }

  async exactly (count) {
    while (this.held.length < count) {
      const { value, done } = await this.pieces.next()
      if (done) throw new Error('the stream ended')
      this.held = Buffer.concat([this.held, value.subarray()])
    }
    const read = this.held.subarray(0, count)
    this.held = this.held.subarray(count)
    return read
  }

  async frame () {
    return await this.exactly((await this.exactly(4)).readUInt32BE())
  }

  async body () {
    const bytes = await this.exactly(Number((await this.exactly(8)).readBigUInt64BE()))
    if (!sha256(bytes).equals(await this.exactly(32))) throw new Error('a body whose digest is another')
    return bytes
  }
}

/** The peer's answer to `question`; throws what it says if it refuses. */
export async function request (connection, federation, name, question = Buffer.alloc(0)) {
  const stream = await connection.newStream(`/p2pfl/${federation}/request/${name}/1`)
  const reader = new Reader(stream)
  stream.send(body(question))
  const verdict = (await reader.exactly(1))[0]
  if (verdict !== 0) throw new Error(`refused: ${await reader.frame()}`)
  const answer = await reader.body()
  await stream.close()
  return answer
}

/** Answer one request on `stream` with `response`, or refuse it if that is text. */
export async function answer (stream, response) {
  await new Reader(stream).body()
  const refused = typeof response === 'string'
  stream.send(Buffer.concat([Buffer.of(refused ? 1 : 0), refused ? frame(Buffer.from(response)) : body(response)]))
  await stream.close()
}
