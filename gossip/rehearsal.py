"""One round of one group over the simulated network: what the tests put through every fault, and a dry run
for anybody.

All members are honest unless ``wrap`` replaces one; identities, secrets and faults follow from the seed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from numpy.typing import NDArray

from p2pfl.crypto.identity import Identity, PeerId
from p2pfl.crypto.randomness import RandomBytes, seeded_random
from p2pfl.crypto.ring import RING_32, Ring
from p2pfl.gossip.chunks import Chunks
from p2pfl.gossip.events import (
    Agreed,
    Completed,
    Contribute,
    Contribution,
    Effect,
    Evidence,
    Prepared,
    Skipped,
)
from p2pfl.gossip.messages import ROUND_MESSAGES, Masked, Pledge
from p2pfl.gossip.round import RoundMachine
from p2pfl.gossip.simulation import Codec, Link, Machine, SimNetwork
from p2pfl.gossip.suite import SUITE, Suite
from p2pfl.gossip.vectorised import group_sums
from p2pfl.gossip.wire import Limits

FEDERATION: Final = bytes(range(32))
EPOCH_ROSTER: Final = bytes(range(32, 64))


@dataclass(frozen=True, slots=True)
class FixedTiming:
    """Deadlines that leave room for every attempt."""

    ready_seconds: float = 1.0
    phase_seconds: float = 1.0
    round_seconds: float = 30.0


Wrap = Callable[[RoundMachine, Identity], Machine]


class Rehearsal:
    """A group of ``len(values)`` members, in drawn order, of which number i contributes row i of ``values``.

    Args:
        values: over the ring, shape (members, dim).
        randoms: where each member takes its secrets from; None: seeded.
        wrap: by member number, what to put in the place of its machine.
        prepared_at: when each member is ready, in seconds; None: all at once.
        stages, states: what each is ready for, and the digest it starts from; None: the same.
        link, codec, crashes, loss_seconds: as for SimNetwork, with crashes by member number.
        suite, timing, minimum, colluders, same_state, round, cut: as for RoundMachine. ring: of ``values``.
    """

    def __init__(
        self,
        values: NDArray[Any],
        *,
        round: int = 7,
        minimum: int = 3,
        colluders: int = 1,
        timing: FixedTiming | None = None,
        suite: Suite = SUITE,
        seed: int = 0,
        randoms: Sequence[RandomBytes] | None = None,
        wrap: Mapping[int, Wrap] | None = None,
        prepared_at: Sequence[float] | None = None,
        stages: Sequence[str] | None = None,
        states: Sequence[bytes] | None = None,
        same_state: bool = False,
        link: Link | None = None,
        codec: bool = False,
        cut: Callable[[int, int, int], Chunks] = Chunks.of,
        ring: Ring = RING_32,
        crashes: Mapping[int, int] | None = None,
        loss_seconds: float | None = 0.05,
    ) -> None:
        self.values, self.round, self.timing = values, round, timing or FixedTiming()
        self.identities = [identity_of(number) for number in range(len(values))]
        self.group = tuple(identity.peer_id for identity in self.identities)
        self.ended: dict[PeerId, Completed | Skipped] = {}
        self.ended_at: dict[PeerId, float] = {}
        self.contributed: list[PeerId] = []
        self.agreed: dict[PeerId, Agreed] = {}
        self.evidence: list[tuple[PeerId, Evidence]] = []
        """Who holds evidence, and which."""
        self._minimum, self._colluders, self._suite, self._seed = minimum, colluders, suite, seed
        self._same_state, self._cut = same_state, cut
        machines: dict[PeerId, Machine] = {}
        for number, identity in enumerate(self.identities):
            random = randoms[number] if randoms else seeded_random(b"%d/%d" % (seed, number))
            machine = self.machine(number, random)
            replace = (wrap or {}).get(number)
            machines[identity.peer_id] = machine if replace is None else replace(machine, identity)
        self.net = SimNetwork(
            machines,
            self._perform,
            link=link,
            codec=Codec(Limits(values.shape[1]), ROUND_MESSAGES) if codec else None,
            crashes={self.group[number]: steps for number, steps in (crashes or {}).items()},
            loss_seconds=loss_seconds,
            seed=seed,
        )
        for number, peer in enumerate(self.group):
            stage = stages[number] if stages else "training"
            state = states[number] if states else bytes(32)
            at = prepared_at[number] if prepared_at else 0.0
            self.net.post(peer, Prepared(round, stage, values.shape[1], state, ring), at)

    def machine(self, number: int, random: RandomBytes) -> RoundMachine:
        """A fresh machine for the member of that number: after a crash, say."""
        return RoundMachine(
            identity=self.identities[number],
            federation=FEDERATION,
            roster_digest=EPOCH_ROSTER,
            round=self.round,
            group=self.group,
            minimum=self._minimum,
            colluders=self._colluders,
            timing=self.timing,
            random=random,
            same_state=self._same_state,
            suite=self._suite,
            cut=self._cut,
        )

    def run(self) -> "Rehearsal":
        """To the end of everything, every timer included."""
        self.net.run()
        return self

    def oracle(self, survivors: Sequence[PeerId]) -> NDArray[Any]:
        """The sum that these survivors must come to: over the ring, shape (dim,)."""
        numbers = [self.group.index(peer) for peer in survivors]
        total: NDArray[Any] = group_sums(self.values, [range(len(self.values))], numbers)[0]
        return total

    @property
    def completed(self) -> dict[PeerId, Completed]:
        return {peer: end for peer, end in self.ended.items() if isinstance(end, Completed)}

    @property
    def skipped(self) -> dict[PeerId, Skipped]:
        return {peer: end for peer, end in self.ended.items() if isinstance(end, Skipped)}

    def masked_vectors(self, author: PeerId) -> set[bytes]:
        """What names the masked vectors that this member sent of its own: digests, or marks of pledges."""
        messages = [sent.message for sent in self.net.sent if sent.sender == author]
        own = [message for message in messages if message.author == author]
        marks = {message.mark for message in own if isinstance(message, Pledge)}
        chunks = [message for message in own if isinstance(message, Masked)]
        return marks or {message.digest for message in chunks if message.chunk == 0}

    def _perform(self, net: SimNetwork, peer: PeerId, effect: Effect) -> None:
        match effect:
            case Contribute():
                self.contributed.append(peer)
                net.post(peer, Contribution(self.round, self.values[self.group.index(peer)]))
            case Completed() | Skipped():
                if peer in self.ended:
                    raise AssertionError(f"{peer} ended the round twice")
                self.ended[peer], self.ended_at[peer] = effect, net.now
            case Evidence():
                self.evidence.append((peer, effect))
            case Agreed():
                self.agreed[peer] = effect
            case _:
                raise AssertionError(f"no effect of a round: {effect}")


def identity_of(number: int) -> Identity:
    """The identity of the rehearsing member of that number."""
    return Identity.from_seed(number.to_bytes(32, "big"))
