"""Whether a neighbour and this node can add up anything in secret: a sum of nothing, between the two of them.

The asker sends a one-time key. The asked makes one too, draws a self-mask, and answers with zeros under the
mask that the two keys agree on and under its own, whose seed it shows. The asker masks zeros of its own, adds
both vectors, takes both self-masks away, and must find zeros: the pairwise mask cancels only if both machines
agreed, expanded and added alike. With it come the other's clock and its versions, and the time that all of it
took.

It shows that these two machines compute and carry what a round is made of. It does not show that a group of
more forms in time, nor shares and losses. Keys and masks are made for it and thrown away; records, ledger,
model and the keys of rounds are not touched.
"""

import hmac
import math
import random
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from platform import python_version
from typing import Any, Final, Literal

import numpy as np
import trio
from numpy.typing import NDArray

from p2pfl.crypto import labels
from p2pfl.crypto.agreement import KEY_BYTES, OneTimeKey, agree
from p2pfl.crypto.identity import PeerId
from p2pfl.crypto.masks import Mask
from p2pfl.crypto.randomness import RandomBytes, system_random
from p2pfl.gossip.canonical import pack, unpack_untrusted
from p2pfl.node.errors import NetworkError
from p2pfl.node.membership.terms import MAX_TERMS_BYTES, Terms, read_terms
from p2pfl.node.transport.types import RequestRefused

REQUEST: Final = "examination"
EXAMINATION_WORDS: Final = 1 << 16
"""Elements of the vector, 32 bits each."""
MAX_EXAMINATION_BYTES: Final = 4 * EXAMINATION_WORDS + MAX_TERMS_BYTES + 512
"""Of an answer."""
EXAMINATION_EVERY_SECONDS: Final = 10.0
"""Between two requests of one peer that are answered."""
MOST_EXAMINED: Final = 8
"""Peers at a time: each answers with a vector."""
_DISTRIBUTIONS = {"p2pfl": "p2pfl-node", "torch": "torch", "libp2p": "libp2p", "numpy": "numpy"}
_LATEST = 1 << 40

Outcome = Literal["agrees", "silent", "wrong"]
Ask = Callable[[PeerId, str, bytes, int], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Examined:
    """What became of it with ``peer``: it ``agrees``, it was ``silent`` (no answer), or ``wrong``, for a
    ``reason``. ``clock``: by how many seconds its clock is ahead of ours; ``seconds``: until it had answered.
    """

    peer: PeerId
    outcome: Outcome
    reason: str = ""
    clock: float = 0.0
    seconds: float = 0.0
    versions: Terms = field(default_factory=dict)

    def as_dict(self) -> Mapping[str, object]:
        """For JSON."""
        return asdict(self)


def versions() -> Terms:
    """What this node runs on; what is not installed is left out."""
    found = {"python": python_version()}
    for name, distribution in _DISTRIBUTIONS.items():
        try:
            found[name] = version(distribution)
        except PackageNotFoundError:
            continue
    return found


class Examiner:
    """Answers the requests of peers, in the federation of this digest. ``clock`` gives seconds since 1970."""

    def __init__(
        self,
        federation: bytes,
        own: PeerId,
        fresh: RandomBytes = system_random,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._federation = federation
        self._own = own
        self._fresh = fresh
        self._clock = clock
        self._answered: dict[PeerId, float] = {}

    async def answer(self, peer: PeerId, body: bytes) -> bytes:
        """Our half of the sum. Raises RequestRefused for what is no key, and if ``peer`` asks too often."""
        self._count(peer)
        key, seed = OneTimeKey.generate(self._fresh), self._fresh(KEY_BYTES)
        try:
            pairwise = agree(
                key.secret, body, labels.EXAMINATION, _context(self._federation, peer, self._own)
            )
        except ValueError as error:
            raise RequestRefused(f"not a one-time key: {error}") from None
        masked = _zeros()
        Mask(seed).add_to(masked)
        Mask(pairwise).take_from(masked)
        return pack(
            {
                "clock": int(self._clock()),
                "key": key.public,
                "masked": masked.tobytes(),
                "seed": seed,
                "versions": dict(versions()),
            }
        )

    def _count(self, peer: PeerId) -> None:
        now = trio.current_time()
        self._answered = {
            each: at for each, at in self._answered.items() if now < at + EXAMINATION_EVERY_SECONDS
        }
        if peer in self._answered:
            wait = math.ceil(self._answered[peer] + EXAMINATION_EVERY_SECONDS - now)
            raise RequestRefused(f"you asked a moment ago; again in {wait} s")
        self._answered[peer] = now


async def examine(
    ask: Ask, peers: Collection[PeerId], federation: bytes, own: PeerId, *, seconds: float
) -> list[Examined]:
    """Do it at once with ``peers``, or MOST_EXAMINED of them; whoever has not answered after ``seconds`` is
    ``silent``.
    """
    chosen = sorted(random.sample(sorted(peers), min(len(peers), MOST_EXAMINED)))
    found = {peer: Examined(peer, "silent", f"no answer within {seconds:g} s") for peer in chosen}

    async def one(peer: PeerId) -> None:
        found[peer] = await _examine_one(ask, peer, _context(federation, own, peer))

    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for peer in found:
                nursery.start_soon(one, peer)
    return list(found.values())


async def _examine_one(ask: Ask, peer: PeerId, context: bytes) -> Examined:
    key, begun = OneTimeKey.generate(system_random), time.monotonic()
    try:
        answer = await ask(peer, REQUEST, key.public, MAX_EXAMINATION_BYTES)
    except NetworkError as error:
        return Examined(peer, "silent", str(getattr(error, "reason", error)))
    seconds = time.monotonic() - begun
    try:
        clock, told = check_untrusted(answer, key, context)
    except ValueError as error:
        return Examined(peer, "wrong", str(error), seconds=seconds)
    return Examined(peer, "agrees", "", clock - (time.time() - seconds / 2), seconds, told)


def check_untrusted(answer: bytes, key: OneTimeKey, context: bytes) -> tuple[int, Terms]:
    """The clock and the versions of whoever gave ``answer`` to ``key``. Raises ValueError unless the sum of
    its vector and ours is zero.
    """
    match unpack_untrusted(answer, MAX_EXAMINATION_BYTES):
        case {
            "clock": int(clock),
            "key": bytes(theirs),
            "masked": bytes(masked),
            "seed": bytes(seed),
            "versions": dict(told),
        } if type(clock) is int and 0 <= clock < _LATEST and len(masked) == 4 * EXAMINATION_WORDS:
            pass
        case _:
            raise ValueError("not an answer to an examination")
    own = system_random(KEY_BYTES)
    total = _zeros()
    Mask(own).add_to(total)
    Mask(agree(key.secret, theirs, labels.EXAMINATION, context)).add_to(total)
    total += np.frombuffer(masked, dtype=total.dtype)
    for each in (own, seed):
        Mask(each).take_from(total)
    if not hmac.compare_digest(total.tobytes(), bytes(total.nbytes)):
        raise ValueError("the masks of the two nodes do not cancel: one of them computes something else")
    return clock, read_terms(told)


def _zeros() -> NDArray[Any]:
    return np.zeros(EXAMINATION_WORDS, dtype="<u4")


def _context(federation: bytes, asker: PeerId, asked: PeerId) -> bytes:
    return pack([federation, asker, asked])
