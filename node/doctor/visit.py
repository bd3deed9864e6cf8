"""Where no node runs: the doctor itself is the node for some seconds, without a round, a record or a ledger.

It holds the lock of the state directory meanwhile, so that there are never two nodes with one key. To members
it is a peer that connects, asks, answers, and goes; it publishes no presence, so no group counts on it.
"""

import logging
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import trio

from p2pfl.crypto.identity import Identity, PeerId
from p2pfl.gossip.manifest import MAX_BYTES, Manifest, ManifestError, decode_manifest_untrusted, digest_of
from p2pfl.node.doctor.findings import Finding, ok, skipped, warning
from p2pfl.node.doctor.known import Known, admission_of
from p2pfl.node.doctor.members import examined, reachable, reached
from p2pfl.node.errors import NetworkError
from p2pfl.node.examination import REQUEST as EXAMINATION
from p2pfl.node.examination import Examined, Examiner, examine
from p2pfl.node.finding.dialback import REQUEST as DIALBACK
from p2pfl.node.finding.dialback import Dialback, Reachability, Report
from p2pfl.node.finding.discovery import peer_of
from p2pfl.node.finding.relaying import reach_through
from p2pfl.node.membership.admission import FederationAdmission
from p2pfl.node.membership.network_key import read_key
from p2pfl.node.transport.network import Limits, Transport

DIAL_SECONDS: Final = 4.0
ASK_SECONDS: Final = 5.0
RELAY_SECONDS: Final = 3.0
_ADDRESSES_OF_A_PEER = 3
_MOST_PEERS = 32
_NOBODY: Final = ("/ip4/127.0.0.1/tcp/0",)


@dataclass(frozen=True, slots=True)
class Visited:
    """What came of it; ``manifest`` if a member sent it and it was not here yet."""

    findings: Sequence[Finding]
    manifest: Manifest | None = None


def visit(known: Known, *, listening: bool) -> Visited:
    """Call members, ask them, and go. ``listening``: the configured ports are free.

    Raises TicketProblem or ConfigError if this node has nothing to show, NetworkError if a port was taken
    meanwhile.
    """
    assert known.identity is not None
    for name in ("p2pfl", "libp2p"):
        if not logging.getLogger(name).handlers:  # what matters is in the findings
            logging.getLogger(name).addHandler(logging.NullHandler())
    visitor = _Visitor(known, known.identity, listening=listening)
    try:
        return trio.run(visitor.run)
    except* NetworkError as errors:
        raise _first(errors) from None


class _Visitor:
    def __init__(self, known: Known, identity: Identity, *, listening: bool) -> None:
        self._known = known
        self._own = identity.peer_id
        self._listening = listening
        config = known.config
        key = None if config.network_key is None else read_key(config.network_key)
        self._admission: FederationAdmission = admission_of(known)
        self._transport = Transport(
            identity,
            config.listen if listening else _NOBODY,
            self._admission,
            f"/p2pfl/{known.federation.hex()}",
            Limits(max_request=1 << 10),
            {EXAMINATION: Examiner(known.federation, self._own).answer, DIALBACK: self._dial_back},
            network_key=key,
        )
        self._dialback = Dialback(self._transport)
        self._failures: dict[PeerId, str] = {}
        self._manifest = known.manifest

    async def run(self) -> Visited:
        async with self._running():
            await self._dial_everybody()
            direct = self._transport.direct
            reports: list[Report] = []
            sums: list[Examined] = []
            through: dict[PeerId, bool] = {}
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._look_from_outside, reports)
                nursery.start_soon(self._examine, direct, sums)
                nursery.start_soon(self._relay, through)
                nursery.start_soon(self._fetch_manifest)
            return Visited([*self._findings(direct, reports, sums, through)], self._manifest)

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            await nursery.start(self._transport.run)
            nursery.start_soon(self._drop_messages)
            yield
            nursery.cancel_scope.cancel()

    async def _drop_messages(self) -> None:
        async for _ in self._transport.events:
            pass

    async def _dial_back(self, peer: PeerId, body: bytes) -> bytes:
        return await self._dialback.answer(peer, body)

    async def _ask(self, peer: PeerId, name: str, body: bytes, most: int) -> bytes:
        return await self._transport.request(peer, name, body, max_response=most, seconds=2 * ASK_SECONDS)

    # -- who is there
    def _targets(self) -> Mapping[PeerId, list[str]]:
        found: dict[PeerId, list[str]] = {}
        for address in self._known.addresses:
            peer = peer_of(address)
            if peer is not None and peer != self._own and peer not in self._admission.excluded:
                found.setdefault(peer, []).append(address)
        return dict(list(found.items())[:_MOST_PEERS])

    async def _dial_everybody(self) -> None:
        targets = self._targets()
        with trio.move_on_after(DIAL_SECONDS):
            async with trio.open_nursery() as nursery:
                for peer, addresses in targets.items():
                    for address in addresses[:_ADDRESSES_OF_A_PEER]:
                        self._failures.setdefault(peer, f"no answer within {DIAL_SECONDS:g} s from {address}")
                        nursery.start_soon(self._dial, peer, address)
        for peer in self._transport.connected:
            self._failures.pop(peer, None)

    async def _dial(self, peer: PeerId, address: str) -> None:
        try:
            await self._transport.connect(address)
        except NetworkError as error:
            self._failures[peer] = f"{getattr(error, 'reason', error)} ({address})"

    # -- what they say
    async def _look_from_outside(self, reports: list[Report]) -> None:
        if not self._listening:
            return
        own = self._known.config.announce or self._transport.addresses
        look = Reachability(self._ask, lambda: self._transport.direct, lambda: own, reports.append)
        with trio.move_on_after(ASK_SECONDS):
            await look.ask_some()

    async def _examine(self, peers: Collection[PeerId], found: list[Examined]) -> None:
        found += await examine(self._ask, peers, self._known.federation, self._own, seconds=ASK_SECONDS)

    async def _relay(self, through: dict[PeerId, bool]) -> None:
        async def one(peer: PeerId) -> None:
            through[peer] = await reach_through(self._transport, peer)

        with trio.move_on_after(RELAY_SECONDS):
            async with trio.open_nursery() as nursery:
                for peer in self._failures if self._transport.direct else ():
                    through[peer] = False
                    nursery.start_soon(one, peer)

    async def _fetch_manifest(self) -> None:
        """The federation's, from anybody who is here, if it is not known."""
        with trio.move_on_after(ASK_SECONDS):
            for peer in sorted(self._transport.direct if self._manifest is None else ()):
                try:
                    found = await self._ask(peer, "manifest", b"", MAX_BYTES)
                    if digest_of(found) == self._known.federation:
                        self._manifest = decode_manifest_untrusted(found)
                        return
                except (NetworkError, ManifestError):
                    continue

    # -- what it comes to
    def _findings(
        self,
        direct: Collection[PeerId],
        reports: Sequence[Report],
        sums: Sequence[Examined],
        through: Mapping[PeerId, bool],
    ) -> list[Finding]:
        if not self._targets():
            why = (
                "no address of a member is known: name one under network.bootstrap, or let the node find some"
            )
            first = skipped("members", why)
        else:
            listed = () if self._manifest is None else self._manifest.members
            expected = {*self._known.met, *listed, *self._targets()} - {self._own}
            first = reached(len(direct), self._failures, len(expected))
        said = reports[-1].as_dict() if reports else {}
        outside = reachable(said) if self._listening else skipped("reachable", "the port is not free")
        return [first, outside, _relayed(through), *examined(sums)]


def _relayed(through: Mapping[PeerId, bool]) -> Finding:
    """Whether those who were not reached are reached through others."""
    if not through:
        return skipped("relay", "nobody needs one who could be asked for")
    carried = [peer for peer, here in through.items() if here]
    lost = [peer for peer, here in through.items() if not here]
    if lost and not carried:
        hint = "if they run, a member that all reach may set network.relay"
        return warning("relay", f"no member relays to {', '.join(lost)}", hint)
    return ok("relay", f"{', '.join(carried)} reached through a member that relays")


def _first(group: BaseExceptionGroup[NetworkError]) -> NetworkError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, NetworkError)
    return error
