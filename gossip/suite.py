"""The cryptography that a secure sum is built from, as a record of functions.

The machines take it as an argument so that a test can run the very same code over a ring of two elements with
secrets that can all be enumerated. There is one suite in production, :data:`SUITE`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from numpy.typing import NDArray

from p2pfl.crypto import agreement, labels, masks, shamir
from p2pfl.crypto.agreement import OneTimeKey
from p2pfl.crypto.randomness import SEED_BYTES, RandomBytes
from p2pfl.gossip.wire import digest


class Mask(Protocol):
    """As :class:`p2pfl.crypto.masks.Mask`."""

    def add_to(self, values: NDArray[Any]) -> None: ...
    def take_from(self, values: NDArray[Any]) -> None: ...


@dataclass(frozen=True, slots=True)
class Suite:
    """What each function must do is said where :data:`SUITE` takes it from. All failures are ValueError."""

    new_key: Callable[[RandomBytes], OneTimeKey]
    key_of: Callable[[bytes], OneTimeKey]
    """The key pair of a secret: tells whether a recovered secret is the one whose public half was
    announced.
    """
    accepts_key: Callable[[bytes], bool]
    """Whether agreeing with this public key gives a secret: refuses the points of small order."""
    new_seed: Callable[[RandomBytes], bytes]
    commit: Callable[[bytes], bytes]
    """A binding and hiding commitment to a self-mask seed."""
    agree: Callable[[bytes, bytes, bytes, bytes], bytes]
    derive: Callable[[bytes, bytes, bytes], bytes]
    seal: Callable[[bytes, bytes, bytes], bytes]
    open_sealed: Callable[[bytes, bytes, bytes], bytes]
    split: Callable[[bytes, int, int, RandomBytes], list[bytes]]
    combine: Callable[[Mapping[int, bytes], int], bytes]
    share_bytes: int
    mask: Callable[[bytes], Mask]


def _accepts_key(public: bytes) -> bool:
    """A point of small order makes every X25519 value zero, so that any secret key will find it out."""
    try:
        agreement.agree(bytes(agreement.KEY_BYTES), public, labels.PAIRWISE_MASK, b"")
    except ValueError:
        return False
    return True


SUITE: Final = Suite(
    new_key=OneTimeKey.generate,
    key_of=OneTimeKey.from_secret,
    accepts_key=_accepts_key,
    new_seed=lambda random: random(SEED_BYTES),
    # Hiding because the seed has 256 bits of entropy, binding because SHA-256 resists collisions.
    commit=lambda seed: digest(labels.SELF_MASK_COMMITMENT, seed),
    agree=agreement.agree,
    derive=agreement.derive,
    seal=agreement.seal,
    open_sealed=agreement.open_sealed,
    split=shamir.split,
    combine=shamir.combine,
    share_bytes=shamir.SHARE_BYTES,
    mask=masks.Mask,
)
