"""One attempt at a secure sum: its roster, the shares dealt, one member's machine to drive by hand."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p2pfl.crypto.identity import PeerId
from p2pfl.crypto.randomness import seeded_random
from p2pfl.crypto.ring import RING_32
from p2pfl.gossip.chunks import Chunks
from p2pfl.gossip.events import Compute, Effect
from p2pfl.gossip.masking import HeldShares, Masking, Secrets
from p2pfl.gossip.messages import (
    Ack,
    Bundle,
    Masked,
    Ready,
    SumMessage,
)
from p2pfl.gossip.rehearsal import identity_of
from p2pfl.gossip.roster import Roster
from p2pfl.gossip.seat import Seat
from p2pfl.gossip.secure_sum import SecureSum
from p2pfl.gossip.suite import SUITE
from p2pfl.gossip.vector_messages import Entries
from p2pfl.gossip.wire import signed

DIM = 4
VALUES = np.random.default_rng(2).integers(0, 2**32, (8, DIM), dtype=np.uint32)
IDENTITIES = [identity_of(number) for number in range(8)]
GROUP = [identity.peer_id for identity in IDENTITIES]


def a_roster(
    members: int, colluders: int = 1, attempt: int = 0, spent: int = 0
) -> tuple[Roster, list[Secrets]]:
    """The first ``spent`` members say that their budgets are."""
    secrets = [Secrets.fresh(SUITE, seeded_random(b"%d" % number)) for number in range(members)]
    readies = [
        Ready(
            peer,
            bytes(32),
            bytes(32),
            7,
            attempt,
            "training",
            DIM,
            own.mask_key.public,
            own.bundle_key.public,
            SUITE.commit(own.seed),
            bytes(32),
            number < spent,
        )
        for number, (peer, own) in enumerate(zip(GROUP, secrets, strict=False))
    ]
    return Roster.of(readies, colluders), secrets


class Dealt:
    """All members of a roster after the shares went round: held[i][j] is what i holds of j."""

    def __init__(self, members: int, colluders: int = 1, spent: int = 0) -> None:
        self.roster, secrets = a_roster(members, colluders, spent=spent)
        self.maskings = [Masking(self.roster, number, own, SUITE) for number, own in enumerate(secrets)]
        self.secrets = secrets
        self.held: list[dict[int, HeldShares]] = [{} for _ in range(members)]
        self.sealed: dict[tuple[int, int], bytes] = {}
        for dealer, masking in enumerate(self.maskings):
            self.held[dealer][dealer], sealed = masking.deal(seeded_random(b"deal %d" % dealer))
            for holder, data in sealed.items():
                self.sealed[dealer, holder] = data
                self.held[holder][dealer] = self.maskings[holder].open(dealer, data)

    def shares(self, owner: int, survived: bool, holders: Iterable[int]) -> dict[int, bytes]:
        held = {holder: self.held[holder][owner] for holder in holders}
        return {holder: shares.seed if survived else shares.key for holder, shares in held.items()}


def masked_by(masking: Masking, values: NDArray[Any], *cuts: int) -> NDArray[Any]:
    """The masked vector, made in slices that end at ``cuts``."""
    masked, masker = values.copy(), masking.masker()
    for part in np.split(masked, cuts):
        masker.apply(part)
    return masked


class Bench:
    """Member 1 of a roster of four, by hand; the other three are made of keys and signatures only."""

    def __init__(self, members: int = 4, count: int = 1, spent: int = 0) -> None:
        self.dealt = Dealt(members, spent=spent)
        self.roster = self.dealt.roster
        self.lost: set[PeerId] = set()
        chunks = Chunks(DIM, members, count)
        seat = Seat(self.roster, IDENTITIES[1], self.lost, 1.0, RING_32, chunks, "round/7/0/")
        self.machine = SecureSum(seat, self.dealt.secrets[1], seeded_random(b"deal 1"), SUITE)
        self.effects = self.machine.start(0.0)

    def worked(self, effects: list[Effect], now: float) -> list[Effect]:
        """What follows once everything that was to be computed is."""
        done: list[Effect] = []
        for effect in effects:
            if isinstance(effect, Compute):
                key = effect.key.removeprefix("round/7/0/")
                done += self.worked(self.machine.computed(key, effect.work(), now), now)
            else:
                done.append(effect)
        return done

    def sign(self, author: int, build: Callable[..., SumMessage], *fields: object) -> SumMessage:
        message = build(GROUP[author], *self.roster.context, *fields)
        return message if message.LABEL is None else signed(IDENTITIES[author], message)

    def take(
        self, author: int, build: Callable[..., SumMessage], *fields: object, now: float = 0.1
    ) -> list[Effect]:
        return self.worked(self.machine.receive(self.sign(author, build, *fields), now), now)

    def wake(self, now: float) -> list[Effect]:
        return self.worked(self.machine.wake(now), now)

    def contribute(self, now: float) -> list[Effect]:
        return self.worked(self.machine.contribute(VALUES[1], now), now)

    def bundle(self, author: int, now: float = 0.1) -> list[Effect]:
        return self.take(author, Bundle, GROUP[1], self.dealt.sealed[author, 1], now=now)

    def vector(self, author: int) -> Masked:
        data = masked_by(self.dealt.maskings[author], VALUES[author].astype("<u4")).tobytes()
        return signed(IDENTITIES[author], Masked.of(GROUP[author], self.roster.context, 0, data))

    def committed(self) -> "Bench":
        for author in (0, 2, 3):
            self.bundle(author)
        for author in (0, 2, 3):
            self.effects = self.take(author, Ack)
        return self

    def with_vectors(self, *authors: int) -> "Bench":
        self.committed()
        self.contribute(0.2)
        for author in authors:
            self.effects = self.worked(self.machine.receive(self.vector(author), 0.3), 0.3)
        return self

    def entries(self, *numbers: int) -> Entries:
        return tuple((number, self.vector(number).digest) for number in numbers)
