"""The arithmetic of masking, and one attempt's machine driven by hand."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from p2pfl.crypto.identity import PeerId
from p2pfl.crypto.randomness import seeded_random
from p2pfl.crypto.ring import RING_16, RING_32, RING_64, Ring
from p2pfl.gossip.chunks import Chunks
from p2pfl.gossip.errors import LocalProtocolError, RemoteProtocolError
from p2pfl.gossip.events import Completed, Compute, Contribute, Effect, Evidence, Send
from p2pfl.gossip.masking import HeldShares, Masking, Secrets
from p2pfl.gossip.messages import (
    Ack,
    Bundle,
    Check,
    Fetch,
    Held,
    Masked,
    Part,
    Plan,
    Pledge,
    Ready,
    Result,
    Reveal,
    SumMessage,
    Survivors,
)
from p2pfl.gossip.recovery import Recovery
from p2pfl.gossip.rehearsal import identity_of
from p2pfl.gossip.roster import Roster
from p2pfl.gossip.seat import Seat
from p2pfl.gossip.secure_sum import SecureSum
from p2pfl.gossip.suite import SUITE
from p2pfl.gossip.vector_messages import Entries
from p2pfl.gossip.wire import Message, signed

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


def recovered_from(dealt: Dealt, owner: int, survived: bool, shares: Mapping[int, bytes]) -> bytes | None:
    """What shares by holder of this one secret come to."""
    search = Recovery(dealt.roster, SUITE, frozenset([owner] if survived else []))
    return search._with_secret(owner, shares).secrets.get(owner)


# ---- arithmetic


def masked_by(masking: Masking, values: NDArray[Any], *cuts: int) -> NDArray[Any]:
    """The masked vector, made in slices that end at ``cuts``."""
    masked, masker = values.copy(), masking.masker()
    for part in np.split(masked, cuts):
        masker.apply(part)
    return masked


@pytest.mark.parametrize("ring", [RING_16, RING_32, RING_64], ids=lambda ring: f"{ring.bits} bits")
@pytest.mark.parametrize(("members", "colluders"), [(3, 1), (4, 1), (5, 2)])
def test_whoever_survives_the_sum_is_exact(members: int, colluders: int, ring: Ring) -> None:
    dealt = Dealt(members, colluders)
    values = np.random.default_rng(2).integers(0, 1 << ring.bits, (members, DIM), ring.dtype)
    masked = [masked_by(masking, values[number]) for number, masking in enumerate(dealt.maskings)]
    threshold = dealt.roster.thresholds.threshold
    for size in range(threshold, members + 1):
        for survivors in combinations(range(members), size):
            recovered = {}
            for owner in range(members):
                survived = owner in survivors
                shares = dealt.shares(owner, survived, survivors[-threshold:])
                secret = recovered_from(dealt, owner, survived, shares)
                own = dealt.secrets[owner]
                assert secret == (own.seed if survived else own.mask_key.secret)
                recovered[owner] = secret
            total = np.add.reduce([masked[owner] for owner in survivors], dtype=ring.dtype)
            dealt.maskings[0].unmasker(survivors, recovered).apply(total)
            assert np.array_equal(total, np.add.reduce(values[list(survivors)], dtype=ring.dtype))


def test_a_masked_vector_is_not_the_vector() -> None:
    dealt = Dealt(4)
    masked = masked_by(dealt.maskings[0], VALUES[0])
    assert not np.any(masked == VALUES[0])
    SUITE.mask(dealt.maskings[0]._self_mask(dealt.secrets[0].seed)).take_from(masked)
    assert not np.any(masked == VALUES[0]), "pairwise masks remain"


def test_slices_of_a_masked_vector_are_the_whole() -> None:
    masking, values = Dealt(4).maskings[2], np.arange(100_000, dtype=np.uint32)
    whole = masked_by(masking, values)
    assert np.array_equal(masked_by(masking, values, 1, 16_383, 16_384, 16_390, 70_000), whole)


def test_every_attempt_masks_differently() -> None:
    """The same secrets in another roster expand to other masks: the context is the roster digest."""
    masks = set()
    for attempt in range(3):
        roster, secrets = a_roster(4, attempt=attempt)
        masking = Masking(roster, 0, secrets[0], SUITE)
        masks |= {masking._self_mask(secrets[0].seed), masking._pair_seed(secrets[0].mask_key.secret, 0, 1)}
        masks.add(masking._bundle_key(0, 1))
        masks.add(masking._bundle_key(1, 0))
    assert len(masks) == 12


def test_bundles_open_for_their_recipient_only() -> None:
    dealt = Dealt(4)
    with pytest.raises(ValueError):
        dealt.maskings[2].open(0, dealt.sealed[0, 1])
    with pytest.raises(ValueError):
        dealt.maskings[1].open(2, dealt.sealed[0, 1])
    with pytest.raises(ValueError):
        dealt.maskings[0].open(1, dealt.sealed[0, 1])
    with pytest.raises(ValueError):
        dealt.maskings[1].open(0, dealt.sealed[0, 1][:-1])
    short = SUITE.seal(dealt.maskings[0]._bundle_key(0, 1), bytes(65), dealt.roster.digest)
    with pytest.raises(ValueError):
        dealt.maskings[1].open(0, short)


def test_a_recovered_mask_key_opens_no_bundle() -> None:
    dealt = Dealt(4)
    key = dealt.secrets[3].mask_key
    burglar = Masking(dealt.roster, 3, replace(dealt.secrets[3], bundle_key=key), SUITE)
    with pytest.raises(ValueError):
        burglar.open(0, dealt.sealed[0, 3])


def test_fewer_shares_than_the_threshold_recover_nothing() -> None:
    dealt = Dealt(5, 2)
    assert dealt.roster.thresholds.threshold == 4
    assert recovered_from(dealt, 1, True, dealt.shares(1, True, (0, 2, 4))) is None


@pytest.mark.parametrize(("members", "colluders", "wrong"), [(4, 1, 1), (8, 1, 1), (8, 1, 2), (8, 3, 2)])
def test_wrong_shares_are_found_out(members: int, colluders: int, wrong: int) -> None:
    """As long as enough right ones are there, whichever are wrong; with too few, nothing comes out."""
    dealt = Dealt(members, colluders)
    for bad in combinations(range(members), wrong):
        for survived in (True, False):
            shares = dealt.shares(2, survived, range(members))
            shares |= {holder: shares[holder][:-1] + bytes([shares[holder][-1] ^ 1]) for holder in bad}
            shares |= {bad[0]: b"short"}
            own = dealt.secrets[2]
            secret = recovered_from(dealt, 2, survived, shares)
            assert secret is not None
            if survived:
                assert secret == own.seed
            else:  # X25519 ignores five bits of a secret: it may be another one of the same key
                assert SUITE.key_of(secret).public == own.mask_key.public
            good = [holder for holder in shares if holder not in bad]
            few = (*bad, *good[: dealt.roster.thresholds.threshold - 1])
            assert recovered_from(dealt, 2, survived, {holder: shares[holder] for holder in few}) is None


def test_shares_have_no_representation() -> None:
    dealt = Dealt(3)
    assert repr(dealt.held[0][1]) == "<HeldShares>"
    assert "seed" not in repr(dealt.secrets[0])
    assert "secret" not in repr(dealt.secrets[0])


# ---- the machine


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


def sent(effects: Iterable[Effect]) -> list[tuple[type[Message], int]]:
    return [(type(e.message), GROUP.index(e.peer)) for e in effects if isinstance(e, Send)]


def failed(bench: Bench) -> bool:
    return bench.machine.failure is not None


def test_acks_only_with_all_bundles_and_contributes_only_with_all_acks() -> None:
    bench = Bench()
    assert sent(bench.effects) == [(Bundle, 0), (Bundle, 2), (Bundle, 3)]
    assert sent(bench.bundle(0) + bench.bundle(0) + bench.bundle(3)) == []
    assert sent(bench.bundle(2)) == [(Ack, 0), (Ack, 2), (Ack, 3)]
    assert bench.take(0, Ack) == bench.take(3, Ack) == bench.take(3, Ack) == []
    asked = [e for e in bench.take(2, Ack) if isinstance(e, Contribute)]
    assert [(e.round, e.attempt, e.members) for e in asked] == [(7, 0, tuple(GROUP[:4]))]


@pytest.mark.parametrize("spent", [0, 1, 3])
def test_it_says_how_many_have_spent_their_budgets(spent: int) -> None:
    bench = Bench(spent=spent)
    for author in (0, 2, 3):
        bench.bundle(author)
    asked = [e for author in (0, 2, 3) for e in bench.take(author, Ack) if isinstance(e, Contribute)]
    assert [e.spent for e in asked] == [spent]
    assert a_roster(4, spent=0)[0].digest != a_roster(4, spent=1)[0].digest


def test_without_a_bundle_it_never_contributes() -> None:
    bench = Bench()
    for author in (0, 2):
        bench.bundle(author)
    for author in (0, 2, 3):
        bench.take(author, Ack)
    bench.wake(0.74)
    assert not failed(bench)
    bench.wake(0.75)
    assert failed(bench)
    assert not bench.machine.committed


def test_nor_if_both_deadlines_pass_at_once() -> None:
    bench = Bench()
    for author in (0, 2):
        bench.bundle(author)
    for author in (0, 2, 3):
        bench.take(author, Ack)
    assert not any(isinstance(effect, Contribute) for effect in bench.wake(1.0))
    assert failed(bench)


def test_at_the_deadline_enough_acks_are_enough_and_fewer_are_not() -> None:
    for acks, committed in (((0, 2), True), ((0,), False)):
        bench = Bench()
        for author in (0, 2, 3):
            bench.bundle(author)
        for author in acks:
            bench.take(author, Ack)
        assert not any(isinstance(effect, Contribute) for effect in bench.wake(0.99))
        bench.wake(1.0)
        assert bench.machine.committed == committed
        assert failed(bench) != committed


def test_nor_is_an_ack_once_more_than_may_collude_have_contributed() -> None:
    """They have been told that enough hold the shares; whoever withholds its ack does so from us only."""
    bench = Bench()
    for author in (0, 2, 3):
        bench.bundle(author)
    assert bench.machine.receive(bench.vector(0), 0.1) == bench.machine.receive(bench.vector(0), 0.1) == []
    assert any(isinstance(e, Contribute) for e in bench.machine.receive(bench.vector(2), 0.1))
    bench = Bench()
    bench.bundle(0)
    for author in (0, 2, 3):
        bench.machine.receive(bench.vector(author), 0.1)
    assert not bench.machine.committed, "with shares missing it cannot"
    assert not failed(bench), "nor need it give up before it must"


def test_one_that_shows_another_roster_ends_the_attempt_only_before_we_have_acked() -> None:
    bench = Bench()
    bench.machine.shown_elsewhere(GROUP[0], 0.1)
    assert failed(bench)
    bench = Bench()
    for author in (0, 2, 3):
        bench.bundle(author)
    for _ in range(2):
        bench.machine.shown_elsewhere(GROUP[0], 0.1)
        assert not failed(bench)
    bench.machine.shown_elsewhere(GROUP[2], 0.1)
    assert failed(bench), "one of the two is honest"


def test_a_lost_member_is_not_waited_for() -> None:
    bench = Bench()
    for author in (0, 2, 3):
        bench.bundle(author)
    bench.take(0, Ack)
    bench.take(3, Ack)
    bench.lost.add(GROUP[2])
    assert any(isinstance(e, Contribute) for e in bench.wake(0.2))
    bench = Bench()
    bench.lost.add(GROUP[2])
    bench.wake(0.2)
    assert failed(bench), "its bundle will not come any more"


def test_a_bundle_that_does_not_open_is_blamed_on_its_author() -> None:
    bench = Bench()
    effects = bench.take(0, Bundle, GROUP[1], bench.dealt.sealed[0, 2])
    assert [(e.peer, e.kind) for e in effects if isinstance(e, Evidence)] == [
        (GROUP[0], "a bundle that does not open")
    ]
    assert failed(bench)


def test_two_different_bundles_are_evidence_and_the_first_one_counts() -> None:
    bench = Bench()
    bench.bundle(0)
    effects = bench.take(0, Bundle, GROUP[1], bytes(106))
    assert [(e.peer, e.kind) for e in effects if isinstance(e, Evidence)] == [
        (GROUP[0], "two different values of bundle")
    ]
    assert not failed(bench)
    assert bench.take(0, Bundle, GROUP[1], bytes(106)) == [], "once is enough"


def test_the_driver_contributes_once_when_asked_and_what_was_agreed() -> None:
    bench = Bench()
    with pytest.raises(LocalProtocolError):
        bench.machine.contribute(VALUES[1], 0.1)
    bench.committed()
    for wrong in (VALUES[1][:3], VALUES[1].astype(np.int64), VALUES[:1]):
        with pytest.raises(LocalProtocolError):
            bench.machine.contribute(wrong, 0.1)
    assert sent(bench.contribute(0.1)) == [(Masked, 0), (Masked, 2), (Masked, 3)]
    with pytest.raises(LocalProtocolError):
        bench.machine.contribute(VALUES[1], 0.1)


def test_only_the_first_in_order_commits_at_once() -> None:
    bench = Bench().with_vectors(0, 2, 3)
    assert sent(bench.effects) == []
    turn = 0.3 + 1.0 / 8
    assert sent(bench.wake(turn - 0.001)) == []
    assert sent(bench.wake(turn)) == [(Survivors, 0), (Survivors, 2), (Survivors, 3)]
    bench = Bench().with_vectors(0, 2, 3)
    bench.lost.add(GROUP[0])
    assert sent(bench.wake(0.31)) == [(Survivors, 0), (Survivors, 2), (Survivors, 3)]


def test_it_signs_nothing_below_the_minimum() -> None:
    bench = Bench().with_vectors(0)
    for now in (1.2, 1.5, 2.0):
        assert sent(bench.wake(now)) == []
    assert sent(bench.machine.receive(bench.vector(2), 3.0)) == [
        (Survivors, 0),
        (Survivors, 2),
        (Survivors, 3),
    ]


def test_it_signs_one_set_whatever_it_is_shown_later() -> None:
    bench = Bench().with_vectors(0, 2, 3)
    first = bench.take(0, Survivors, bench.entries(0, 1, 2, 3))
    assert sent(first) == [(Survivors, 0), (Survivors, 2), (Survivors, 3)]
    assert sent(bench.take(2, Survivors, bench.entries(0, 1, 2))) == []
    assert sent(bench.wake(5.0)) == []


def test_a_set_that_leaves_out_who_is_there_waits_for_the_deadline() -> None:
    bench = Bench().with_vectors(0, 2)
    assert sent(bench.take(0, Survivors, bench.entries(0, 1, 2))) == []
    assert sent(bench.wake(1.09)) == []
    assert sent(bench.wake(1.1)) == [(Survivors, 0), (Survivors, 2), (Survivors, 3)]


def test_a_set_without_us_is_never_signed() -> None:
    bench = Bench().with_vectors(0, 2, 3)
    assert sent(bench.take(0, Survivors, bench.entries(0, 2, 3), now=1.2)) == [
        (Survivors, 0), (Survivors, 2), (Survivors, 3)
    ]  # fmt: skip
    assert bench.machine._ballots[GROUP[1]].entries == bench.entries(0, 1, 2, 3)
    bench.take(2, Survivors, bench.entries(0, 2, 3), now=1.2)
    effects = bench.take(3, Survivors, bench.entries(0, 2, 3), now=1.2)
    assert bench.machine.failure == "the others settled on survivors without us"
    assert sent(effects) == [], "and nothing is revealed"


def test_vectors_are_fetched_after_a_while_from_one_signer_at_a_time() -> None:
    bench = Bench().with_vectors(0, 2)
    assert sent(bench.take(2, Survivors, bench.entries(0, 1, 2, 3))) == []
    assert sent(bench.take(0, Survivors, bench.entries(0, 1, 2, 3))) == []
    assert sent(bench.wake(0.1 + 0.9 / 16)) == []
    assert sent(bench.wake(0.1 + 1.0 / 16)) == [(Fetch, 2)]
    assert sent(bench.wake(0.1 + 3.0 / 16)) == [(Fetch, 0)]
    assert sent(bench.wake(0.1 + 5.0 / 16)) == []
    assert sent(bench.machine.receive(bench.vector(3), 0.5))[0] == (Survivors, 0)


def test_a_fetch_is_answered_once() -> None:
    bench = Bench().with_vectors(0)
    mark = bench.vector(0).digest
    assert sent(bench.take(3, Fetch, "masked", GROUP[0], 0, mark)) == [(Masked, 3)]
    assert sent(bench.take(3, Fetch, "masked", GROUP[0], 0, mark)) == []
    assert sent(bench.take(3, Fetch, "masked", GROUP[2], 0, mark)) == []
    assert sent(bench.take(3, Fetch, "masked", GROUP[0], 0, bytes(32))) == []
    assert sent(bench.take(3, Fetch, "part", GROUP[0], 0, mark)) == []


def test_nothing_is_revealed_below_the_threshold_and_the_right_things_at_it() -> None:
    bench = Bench().with_vectors(0, 2, 3)
    for author in (0, 2):  # with our own that makes three signatures for everybody
        effects = bench.take(author, Survivors, bench.entries(0, 1, 2, 3))
    reveals = [e.message for e in effects if isinstance(e, Send) and isinstance(e.message, Reveal)]
    assert len(reveals) == 3
    assert reveals[0].shares == tuple(bench.dealt.held[1][owner].seed for owner in range(4))
    bench = Bench().with_vectors(0, 2)
    bench.lost.add(GROUP[3])
    first = bench.take(0, Survivors, bench.entries(0, 1, 2))
    assert {kind for kind, _ in sent(first)} == {Survivors}, "two signatures are not enough"
    second = bench.take(2, Survivors, bench.entries(0, 1, 2))
    assert sent(second) == [(Reveal, 0), (Reveal, 2)], "to survivors only"
    reveal = next(e.message for e in second if isinstance(e, Send) and isinstance(e.message, Reveal))
    held = bench.dealt.held[1]
    assert reveal.shares == (held[0].seed, held[1].seed, held[2].seed, held[3].key)
    for author, entries in ((3, bench.entries(0, 1, 2, 3)), (0, bench.entries(0, 1, 2, 3))):
        assert sent(bench.take(author, Survivors, entries)) == [], "one reveal, whatever else is signed"


def test_a_late_vector_changes_nothing_once_the_set_is_settled() -> None:
    bench = Bench().with_vectors(0, 2)
    bench.lost.add(GROUP[3])
    for author in (0, 2):
        bench.take(author, Survivors, bench.entries(0, 1, 2))
    assert bench.machine.receive(bench.vector(3), 0.4) == []
    effects: list[Effect] = []
    for author in (0, 2):
        held = bench.dealt.held[author]
        shares = (held[0].seed, held[1].seed, held[2].seed, held[3].key)
        mark = next(iter(bench.machine._reveals.values())).survivors
        effects += bench.take(author, Reveal, mark, shares)
    (end,) = [e for e in effects if isinstance(e, Completed)]
    assert np.array_equal(end.total, VALUES[0] + VALUES[1] + VALUES[2])
    assert end.survivors == tuple(GROUP[:3])
    assert sent(effects) == [(Result, 0), (Result, 2)]


def test_shares_that_were_revealed_for_another_set_are_not_used() -> None:
    bench = Bench().with_vectors(0, 2, 3)
    for author in (0, 2):
        bench.take(author, Survivors, bench.entries(0, 1, 2, 3))
    mark = bench.machine._reveals[GROUP[1]].survivors
    effects = []
    for author, named in ((0, mark), (2, bytes(32)), (3, mark)):
        shares = tuple(bench.dealt.held[author][owner].seed for owner in range(4))
        effects.append([type(e) for e in bench.take(author, Reveal, named, shares)])
    assert Completed not in effects[1]
    assert Completed in effects[2]


@pytest.mark.parametrize("meanwhile", [True, False])
def test_secrets_are_put_together_off_the_loop_one_search_at_a_time(meanwhile: bool) -> None:
    """Member 2 reveals garbage. What comes while a search is under way is looked at in the next."""
    bench = Bench().with_vectors(0, 2, 3)
    for author in (0, 2):
        bench.take(author, Survivors, bench.entries(0, 1, 2, 3))
    mark = bench.machine._reveals[GROUP[1]].survivors

    def reveal(author: int, *shares: bytes) -> list[Effect]:
        return bench.machine.receive(bench.sign(author, Reveal, mark, shares), 0.4)

    def right(author: int) -> list[bytes]:
        return [bench.dealt.held[author][owner].seed for owner in range(4)]

    assert reveal(0, *right(0)) == []
    (search,) = reveal(2, *(bytes(33) for _ in range(4)))
    assert isinstance(search, Compute)
    found = search.work()
    if meanwhile:
        assert reveal(3, *right(3)) == []
        (again,) = bench.machine.computed("secrets", found, 0.4)
    else:
        assert bench.machine.computed("secrets", found, 0.4) == []
        (again,) = reveal(3, *right(3))
    assert isinstance(again, Compute)
    assert Completed in map(type, bench.worked([again], 0.4))


def test_it_ends_when_no_set_can_win() -> None:
    bench = Bench().with_vectors(0, 2, 3)
    bench.take(0, Survivors, bench.entries(0, 1, 2, 3))
    bench.take(2, Survivors, bench.entries(1, 2, 3))
    assert not failed(bench)
    bench.take(3, Survivors, bench.entries(1, 2, 3))
    assert failed(bench)


def test_it_ends_when_too_few_are_left() -> None:
    bench = Bench().with_vectors(0)
    bench.lost |= {GROUP[2], GROUP[3]}
    bench.wake(0.5)
    assert not failed(bench), "they may come back until the deadline"
    bench.wake(1.1)
    assert failed(bench)


BROKEN: dict[str, Callable[[Bench], tuple[int, Callable[..., SumMessage], tuple[object, ...]]]] = {
    "a bundle for another": lambda bench: (0, Bundle, (GROUP[2], bench.dealt.sealed[0, 2])),
    "survivors without the author": lambda bench: (0, Survivors, (bench.entries(1, 2, 3),)),
    "too few survivors": lambda bench: (0, Survivors, (bench.entries(0, 1),)),
    "a stranger survives": lambda bench: (0, Survivors, ((*bench.entries(0, 1, 2), (4, bytes(32))),)),
    "too few shares": lambda bench: (0, Reveal, (bytes(32), (bytes(33),) * 3)),
    "an ack of a stranger": lambda bench: (5, Ack, ()),
    "survivors of a reduce-scatter": lambda bench: (0, Survivors, (bench.entries(0, 1, 2), bytes(32))),
    "a pledge": lambda bench: (0, Pledge, ((bytes(32),),)),
    "a held": lambda bench: (0, Held, (bench.entries(0, 1, 2),)),
    "a plan": lambda bench: (0, Plan, (bench.entries(0, 1, 2), (0,))),
    "a part": lambda bench: (0, Part, (bytes(32), 0, bytes(32), bytes(16))),
    "a check": lambda bench: (0, Check, (bytes(32), (bytes(32),), bytes(160))),
}


@pytest.mark.parametrize("case", BROKEN)
def test_no_honest_member_writes(case: str) -> None:
    bench = Bench().with_vectors(0, 2)
    author, build, fields = BROKEN[case](bench)
    with pytest.raises(RemoteProtocolError) as caught:
        bench.take(author, build, *fields)
    assert caught.value.peer == GROUP[author]


@pytest.mark.parametrize(("chunk", "length"), [(0, DIM + 1), (0, DIM - 1), (1, DIM)])
def test_a_vector_of_another_length_is_refused(chunk: int, length: int) -> None:
    bench = Bench().committed()
    odd = signed(IDENTITIES[0], Masked.of(GROUP[0], bench.roster.context, chunk, bytes(4 * length)))
    with pytest.raises(RemoteProtocolError):
        bench.machine.receive(odd, 0.3)
