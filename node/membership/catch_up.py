"""A newcomer, or a node that was away, takes over the released model that enough neighbours agree on.

Enough is one more than the colluders that the manifest reckons with, and two at least: fewer could hand out
any model they like. There may be more colluders in the whole federation than any one group is laid out for,
so that alone moves nobody but a newcomer. A node that holds a model gives it up only if most of the
neighbours that answer have released something since. And of what they hold it takes the newest of the models
that more than half as many hold as the one that most do: few cannot outbid many.

Nor can few keep it waiting: once more than half have said what they hold, the others have as long again and
a little more; and whom of the holders it asks for the model first is drawn.

What is fetched was released to every member of a group already, so nobody learns anything new from the
answer.
"""

import logging
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Self

import trio

from p2pfl.crypto.identity import PeerId
from p2pfl.gossip.canonical import pack, unpack_untrusted
from p2pfl.node.errors import NetworkError
from p2pfl.node.released import Released

log = logging.getLogger(__name__)

ANSWER_SECONDS = 5.0
STRAGGLER_SECONDS = 1.0
"""That peers have to answer, at least, once more than half have and those are enough."""
TRIES = 5
PAUSE_SECONDS = 0.5
_MAX_SUMMARY = 512

Ask = Callable[[PeerId, str, bytes, int], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Summary:
    """What a node says of itself: (round, digest) of its latest releases, newest first, and whether its
    programme is over.
    """

    releases: tuple[tuple[int, bytes], ...]
    done: bool

    def to_bytes(self) -> bytes:
        return pack([[[round, digest] for round, digest in self.releases], self.done])

    @classmethod
    def from_untrusted(cls, data: bytes) -> Self:
        """Raises ValueError unless ``data`` is a well-formed summary of at most two releases."""
        fields = unpack_untrusted(data, _MAX_SUMMARY)
        if not isinstance(fields, list) or len(fields) != 2:
            raise ValueError("not a summary")
        releases, done = fields
        if not isinstance(releases, list) or len(releases) > 2 or not isinstance(done, bool):
            raise ValueError("not a summary")
        pairs = []
        for release in releases:
            match release:
                case [int(round), bytes(digest)] if type(round) is int and _in_range(round, digest):
                    pairs.append((round, digest))
                case _:
                    raise ValueError("not a summary")
        return cls(tuple(pairs), done)


def _in_range(round: int, digest: bytes) -> bool:
    return 0 <= round < 1 << 40 and len(digest) == 32


async def ask_summaries(
    ask: Ask, peers: Collection[PeerId], *, most_are_enough: bool = False
) -> dict[PeerId, Summary]:
    """Ask everybody at once; who does not answer in time, or answers nonsense, is left out."""
    answers: dict[PeerId, Summary] = {}
    found = await ask_everybody(ask, peers, "summary", _MAX_SUMMARY, most_are_enough=most_are_enough)
    for peer, answer in found.items():
        try:
            answers[peer] = Summary.from_untrusted(answer)
        except ValueError as error:
            log.info("no summary from %s: %s", peer, error)
    return answers


async def ask_everybody(
    ask: Ask, peers: Collection[PeerId], name: str, most: int, *, most_are_enough: bool = False
) -> dict[PeerId, bytes]:
    """What all of ``peers`` answer to the request ``name`` at once, in ``most`` bytes; who does not in time
    is left out. ``most_are_enough``: then few that say nothing are not waited for to the end.
    """
    answers: dict[PeerId, bytes] = {}
    began = trio.current_time()

    async def one(peer: PeerId) -> None:
        try:
            answers[peer] = await ask(peer, name, b"", most)
        except NetworkError as error:
            log.info("no %s from %s: %s", name, peer, error)
        if most_are_enough and 2 * len(answers) > len(peers):
            now = trio.current_time()
            until = now + max(STRAGGLER_SECONDS, now - began)
            nursery.cancel_scope.deadline = min(nursery.cancel_scope.deadline, until)

    async with trio.open_nursery() as nursery:
        for peer in peers:
            nursery.start_soon(one, peer)
    return answers


def newest_agreed(
    summaries: dict[PeerId, Summary], between: tuple[int, int], agreeing: int
) -> tuple[bytes, Sequence[PeerId]] | None:
    """A digest and its holders: of the releases that at least ``agreeing`` peers hold, and more than half as
    many as the one that most hold, the newest; None if there is none. ``between`` two rounds, both exclusive:
    unless the first is -1 (nothing is held), most of ``summaries`` must name a release after it.
    """
    after, before = between
    holders: defaultdict[tuple[int, bytes], list[PeerId]] = defaultdict(list)
    for peer, summary in summaries.items():
        for release in set(summary.releases):
            if after < release[0] < before:
                holders[release].append(peer)
    ahead = sum(any(round > after for round, _ in summary.releases) for summary in summaries.values())
    if after >= 0 and 2 * ahead <= len(summaries):
        return None
    enough = max(agreeing, max(map(len, holders.values()), default=0) // 2 + 1)
    agreed = [release for release, peers in holders.items() if len(peers) >= enough]
    if not agreed:
        return None
    newest = max(agreed)
    return newest[1], holders[newest]


async def agreed_state(
    ask: Ask,
    connected: Callable[[], Collection[PeerId]],
    fetch: Callable[[PeerId, bytes], Awaitable[Released]],
    between: tuple[int, int],
    agreeing: int,
    plausible: Callable[[Released], bool],
) -> Released | None:
    """Fetch the newest model that connected peers agree on, as :func:`newest_agreed` says; None if there is
    none.

    ``fetch`` brings the state with a digest from a peer, or raises NetworkError or ValueError. While rounds
    go on, peers may be one release apart for a moment, so it asks a few times.
    """
    for _ in range(TRIES):
        summaries = await ask_summaries(ask, connected(), most_are_enough=True)
        found = newest_agreed(summaries, between, agreeing)
        if found is not None:
            digest, holders = found
            for peer in random.sample(holders, len(holders)):
                try:
                    released = await fetch(peer, digest)
                except (NetworkError, ValueError) as error:
                    log.info("no state from %s: %s", peer, error)
                    continue
                if released.digest == digest and plausible(released):
                    return released
                log.warning("peer %s sent a model that is not the one it announced, or that cannot be", peer)
        await trio.sleep(PAUSE_SECONDS)
    return None
