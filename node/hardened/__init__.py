"""Hardened, wire-compatible parts for py-libp2p 0.8.1, plugged in through the options it offers.

    tcp     sockets bound exclusively, read ahead, counted; half-open connections bounded
    noise   the library's handshake, then our own record layer: one system call for many messages
    gate    admission by peer id, straight after the handshake and before any multiplexer
    yamux   /yamux/1.0.0 rewritten: one writer task, strict windows, fair and bounded
    guard   nothing a stream does may leave its handler
    wire    frames and digested bodies on one stream
    circuit a stream that a relay carries, in the form of a socket
    host    puts them together; the traps of the library around them are disarmed here

Nothing but :mod:`p2pfl.node.transport` imports this package.
"""
