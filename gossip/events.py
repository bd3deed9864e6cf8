"""What happens to a protocol machine (events) and what it asks of its driver (effects).

A machine's ``handle(event, now)`` returns effects in the order in which they are to be carried out. ``now``
and every ``at`` are seconds on the driver's clock, which must never run backwards. A timer that is set
fires once, at or after its time, as :class:`TimerExpired` with the same key; the machine ignores those it
no longer needs, so nothing is ever cancelled.

What may be summed, and everything secret, is kept out of ``repr``.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from p2pfl.crypto.identity import PeerId
from p2pfl.crypto.ring import RING_32, Ring
from p2pfl.gossip.thresholds import Thresholds
from p2pfl.gossip.wire import Message


class Values(Protocol):
    """A vector over a ring that is taken slice by slice, from the first element to the last and once: an
    array, or whatever computes one on the way.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> "np.dtype[Any]": ...
    def __getitem__(self, where: slice, /) -> NDArray[Any]: ...


@dataclass(frozen=True, slots=True)
class Received:
    """``peer``, whose connection this is, handed us ``message``; its author may be another (relayed
    vectors).
    """

    peer: PeerId
    message: Message


@dataclass(frozen=True, slots=True)
class TimerExpired:
    """The timer ``key``, set earlier, has run out."""

    key: str


@dataclass(frozen=True, slots=True)
class PeerFound:
    """A connection to ``peer`` exists (again)."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class PeerLost:
    """The connection to ``peer`` ended."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Prepared:
    """We are ready for ``round``: we will contribute ``dim`` ring elements to a sum for ``stage``.

    ``stage`` is opaque text of at most 32 characters, ``state_digest`` 32 bytes that name the model we
    start from. The ``ring`` of a stage is the same for everybody. ``spent``: our privacy budget is, so that
    we contribute without our records; every member of the roster is told.
    """

    round: int
    stage: str
    dim: int
    state_digest: bytes
    ring: Ring = RING_32
    spent: bool = False


@dataclass(frozen=True, slots=True)
class Contribution:
    """The driver's answer to :class:`Contribute`: over the ring of the round, shape (dim,), encoded and
    noised. The machine takes it slice by slice, within :class:`Compute`.
    """

    round: int
    values: Values = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Computed:
    """What the ``work`` of the :class:`Compute` with this round and key returned."""

    round: int
    key: str
    value: object = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Delivered:
    """Our operator hands in what excludes somebody (:mod:`p2pfl.gossip.exclusions`), checked."""

    ground: Message


@dataclass(frozen=True, slots=True)
class Renewed:
    """From the next epoch on we show the members these credentials, as text."""

    ticket: str


Event = (
    Received | TimerExpired | PeerFound | PeerLost | Prepared | Contribution | Computed | Delivered | Renewed
)


@dataclass(frozen=True, slots=True)
class Send:
    """Bring ``message`` to ``peer``; nothing is owed if that fails."""

    peer: PeerId
    message: Message


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Answer with :class:`TimerExpired` once ``at`` has come."""

    key: str
    at: float


@dataclass(frozen=True, slots=True)
class Connect:
    """A connection to ``peer`` is wanted whenever there is none; these are its multiaddresses, which are
    news.
    """

    peer: PeerId
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EpochBegan:
    """The roster of ``epoch`` is settled; its rounds are numbered from ``first_round``."""

    epoch: int
    first_round: int
    roster: tuple[PeerId, ...]


@dataclass(frozen=True, slots=True)
class Begin:
    """Round ``round`` begins with ``group`` (in its drawn order): train, then answer :class:`Prepared`."""

    round: int
    group: tuple[PeerId, ...]


@dataclass(frozen=True, slots=True)
class Contribute:
    """Everything is in place: charge the ledger, answer :class:`Contribution`. At most once per round.

    ``spent`` of the ``members`` have said that their privacy budgets are.
    """

    round: int
    attempt: int
    members: tuple[PeerId, ...]
    thresholds: Thresholds
    spent: int = 0


@dataclass(frozen=True, slots=True)
class Course:
    """How a round went, as far as this member saw it.

    ``members`` of the drawn ``group`` were in the ``roster`` with this digest, in the attempt that counted or
    was the last; both are empty if none was agreed. ``settled`` is the digest of the survivors. ``dropped``:
    who is not in the sum, or was waited for when the round ended, and the phase in which it was missing:
    *absent* (no connection when the roster was formed), *forming*, *share*, *masked*, *commit* or *reveal*.
    """

    group: tuple[PeerId, ...] = ()
    attempt: int = 0
    members: tuple[PeerId, ...] = ()
    roster: bytes = b""
    settled: bytes = b""
    dropped: tuple[tuple[PeerId, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Completed:
    """The round's sum: ``total`` is over the ring of the round, shape (dim,), over exactly ``survivors``,
    some or all of ``members``.
    """

    round: int
    stage: str
    total: NDArray[Any] = field(repr=False, compare=False)
    survivors: tuple[PeerId, ...]
    members: tuple[PeerId, ...]
    thresholds: Thresholds
    course: Course = Course()


@dataclass(frozen=True, slots=True)
class Agreed:
    """These survivors of a completed ``round``, ourselves among them, signed the digest of the same sum:
    their result messages. Once for each round, when no more are to be expected.
    """

    round: int
    results: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Skipped:
    """The round is over without a sum; the model stays as it is. ``sent_masked``: our masked vector went
    out.
    """

    round: int
    stage: str
    reason: str
    sent_masked: bool
    course: Course = Course()


@dataclass(frozen=True, slots=True)
class Evidence:
    """``peer`` broke the protocol; its signed ``messages`` show how. ``kind`` says what in a few words."""

    peer: PeerId
    kind: str
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Waiting:
    """No round can begin now, for ``reason``; it is said once, and the machine goes on trying."""

    reason: str


@dataclass(frozen=True, slots=True)
class Compute:
    """Call ``work``, which may take a while and touches nothing that changes, and answer
    :class:`Computed` with what it returns. A driver with an event loop does it on another thread.
    """

    round: int
    key: str
    work: Callable[[], object] = field(repr=False, compare=False)


Effect = (
    Send
    | SetTimer
    | Connect
    | EpochBegan
    | Begin
    | Contribute
    | Compute
    | Completed
    | Agreed
    | Skipped
    | Evidence
    | Waiting
)
