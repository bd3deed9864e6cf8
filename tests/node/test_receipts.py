"""Receipts in the journal, what they prove, and who took part by them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfl.crypto import labels
from p2pfl.crypto.identity import Identity, PeerId
from p2pfl.gossip.canonical import pack, unpack_untrusted
from p2pfl.gossip.events import Completed, Course
from p2pfl.gossip.manifest import Manifest, canonical_bytes, from_toml
from p2pfl.gossip.messages import result_digest
from p2pfl.gossip.rehearsal import Rehearsal
from p2pfl.heart_disease import FEDERATION_TOML
from p2pfl.node.accountant import Mechanism, epsilon
from p2pfl.node.errors import StorageError
from p2pfl.node.monitoring.participation import (
    LEAST,
    NEW_SECONDS,
    RECENT,
    Participation,
    missed_on_the_whole,
)
from p2pfl.node.storage.carried import Carried
from p2pfl.node.storage.last_signed import LastSigned, require_newest, round_in
from p2pfl.node.storage.receipts import Agreement, Entry, Kept, Receipt, RoundOutcome
from p2pfl.node.storage.store import Store

VALUES = np.random.default_rng(1).integers(0, 2**32, (4, 5), dtype=np.uint32)
CHARGE = Mechanism("training", "train", "distributed", 1.5, 0.5, 1, 4, 3, 1)
A, B, C, D, E = (Identity.from_seed(bytes([n]) * 32).peer_id for n in range(1, 6))


def manifest(mode: str = "none") -> Manifest:
    draft = from_toml(FEDERATION_TOML.read_text(encoding="utf-8").replace("ISSUER", A))
    if mode == "none":
        return replace(draft, privacy=draft.privacy.with_mode("none"))
    privacy = replace(
        draft.privacy,
        noise_multiplier=1.5,
        statistics_noise_multiplier=1.5,
        evaluation_noise_multiplier=1.5,
    )
    return replace(draft, privacy=privacy)


@pytest.fixture(scope="module")
def rehearsal() -> Rehearsal:
    return Rehearsal(VALUES, colluders=1).run()


def keep(store: Store, rehearsal: Rehearsal, number: int = 0) -> None:
    """The round of ``rehearsal`` as the member of that number writes it down."""
    me = rehearsal.group[number]
    end = rehearsal.ended[me]
    assert isinstance(end, Completed)
    outcome = RoundOutcome(end.round, end.stage, end.members, end.survivors, "", True, 2, (1.5, -0.1), 3)
    store.charge(end.round, CHARGE, end.members)
    store.record_round(outcome, end.course, result_digest(end.course.settled, end.total))
    store.record_agreement(end.round, rehearsal.agreed[me].results)


def test_a_receipt_shows_that_all_agreed(tmp_path: Path, rehearsal: Rehearsal) -> None:
    with Store.open(tmp_path, rehearsal.identities[0]) as store:
        store.bind_manifest(canonical_bytes(manifest()))
        keep(store, rehearsal)
        store.record_round(RoundOutcome(8, "", (), (), "too few", False, 0), Course(rehearsal.group))
    with Store.open(tmp_path, rehearsal.identities[0], readonly=True) as store:
        kept, skipped = store.receipts()
        assert store.rounds()[0].evaluation == (1.5, -0.1)
        assert [outcome.completed for outcome in store.rounds()] == [True, False]
    assert (kept.confirmed, kept.false()) == (True, "")
    assert kept.receipt.federation == manifest().digest
    assert kept.receipt.group == kept.receipt.survivors == rehearsal.group
    assert (skipped.confirmed, skipped.false(), skipped.receipt.reason) == (False, "", "too few")


def test_nothing_in_a_receipt_can_be_changed(tmp_path: Path, rehearsal: Rehearsal) -> None:
    with Store.open(tmp_path, rehearsal.identities[0]) as store:
        keep(store, rehearsal)
        [kept] = store.receipts()
    one = kept.receipt
    for changed in (
        replace(one, round=9),
        replace(one, epsilon="0.1"),
        replace(one, survivors=one.survivors[:3]),
        replace(one, federation=bytes([1]) * 32),
    ):
        assert "not signed by" in replace(kept, receipt=changed).false()
    other = replace(kept.receipt, result=bytes(32))
    body, me = other.to_bytes(), rehearsal.identities[0]
    assert (
        "did not sign this sum"
        in replace(kept, receipt=other, signature=me.sign(labels.RECEIPT, body)).false()
    )
    assert Agreement.of(other, rehearsal.agreed[me.peer_id].results).signatures == ()


def test_epsilon_in_a_receipt_is_an_upper_bound(tmp_path: Path) -> None:
    agreed = manifest("distributed")
    with Store.open(tmp_path, Identity.from_seed(bytes(32))) as store:
        store.bind_manifest(canonical_bytes(agreed))
        for round in range(2):
            store.charge(round, CHARGE)
            store.record_round(RoundOutcome(round, "training", (A,), (A,), "", True, 0))
        first, second = (float(kept.receipt.epsilon) for kept in store.receipts())
        spent = epsilon(store.mechanisms(), agreed.privacy.delta)
    assert first < second == spent.rdp
    assert second >= spent.pld


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_receipt_is_read_or_refused_with_a_sentence(data: st.DataObject) -> None:
    one = Receipt(
        A, bytes(32), 1, 0, "training", 5, "", True, (A, B), (A, B), (A,), ((B, "masked"),), b"", b"", b"", ""
    )
    fields = unpack_untrusted(Entry(Kept(one, bytes(64)), _outcome(one)).to_bytes(), 1 << 16)
    assert isinstance(fields, list)
    body = unpack_untrusted(fields[0], 1 << 16)
    assert isinstance(body, list)
    assert Receipt.from_untrusted(body) == one
    where = data.draw(st.integers(0, len(body) - 1))
    body[where] = data.draw(
        st.one_of(st.none(), st.integers(-1, 1 << 62), st.binary(max_size=9), st.lists(st.integers(-1, 9)))
    )
    try:
        again = Receipt.from_untrusted(body)
    except ValueError:
        return
    assert again.to_bytes() == pack(body)


def _outcome(one: Receipt) -> RoundOutcome:
    return RoundOutcome(one.round, one.stage, one.members, one.survivors, one.reason, one.sent_masked, 0)


# -- a ledger that is behind
def test_a_ledger_behind_ones_own_signature_is_found(tmp_path: Path, rehearsal: Rehearsal) -> None:
    with Store.open(tmp_path, rehearsal.identities[0]) as store:
        keep(store, rehearsal)
        known = LastSigned(store.receipts())
    for peer in rehearsal.group:
        assert round_in(known.of(peer), peer) == 7
    assert known.of(A) == b""
    me, other = rehearsal.group[1:3]
    with pytest.raises(ValueError, match="not a signature"):
        round_in(known.of(other), me)
    answers = [(A, b""), (B, b"nonsense"), (C, known.of(other)), (D, known.of(me))]
    require_newest(answers, me, 7)
    require_newest(answers[:3], me, -1)
    with pytest.raises(StorageError, match=rf"{D} holds this node's own signature of round 7.*after round 6"):
        require_newest(answers, me, 6)


def test_a_ledger_that_was_found_behind_stays_so_when_nobody_is_there(
    tmp_path: Path, rehearsal: Rehearsal
) -> None:
    mine, behind = rehearsal.identities[1], tmp_path / "behind"
    with Store.open(tmp_path, rehearsal.identities[0]) as store:
        keep(store, rehearsal)
        signed = LastSigned(store.receipts()).of(mine.peer_id)
    with Store.open(behind, mine) as store, pytest.raises(StorageError, match="older copy"):
        store.require_newest([(A, b""), (D, signed)])
    for readonly in (True, False):
        with pytest.raises(StorageError, match=rf"{D} holds this node's own signature of round 7.*empty"):
            Store.open(behind, mine, readonly=readonly)


def test_what_may_be_signed_in_an_earlier_federation_shuts_no_ledger_for_good(
    tmp_path: Path, rehearsal: Rehearsal
) -> None:
    mine, resumed = rehearsal.identities[1], tmp_path / "resumed"
    with Store.open(tmp_path, rehearsal.identities[0]) as store:
        keep(store, rehearsal)
        signed = LastSigned(store.receipts()).of(mine.peer_id)
    with Store.open(resumed, mine) as store:
        store.carry_over([Carried(bytes(32), "earlier", "none", ())])
        with pytest.raises(StorageError, match="older copy"):
            store.require_newest([(D, signed)])
    Store.open(resumed, mine).close()


# -- participation
def took(participation: Participation) -> dict[PeerId, tuple[int, int]]:
    return {share.peer: (share.took, share.of) for share in participation.shares()}


def test_whoever_is_missing_counts_as_missing_even_if_no_epoch_knows_it() -> None:
    counted = Participation(A, listed=(A, B, C, D))
    counted.enter((A, B, C, D))
    for _ in range(10):
        counted.count((A, B, C, D), (A, B, C, D), 0)
    counted.enter((A, B, C))
    for _ in range(RECENT):
        counted.count((A, B, C), (A, B), 0)
    assert took(counted) == {B: (30, 30), C: (10, 30), D: (10, 30)}
    assert {share.peer for share in counted.shares() if share.low} == {C, D}
    told = missed_on_the_whole([share.as_dict() for share in counted.shares()])
    assert told.startswith("2 members took part in less than half of the rounds")
    assert B not in told
    for _ in range(RECENT):
        counted.count((A, B, C), (A, B, C), 0)
    assert {share.peer for share in counted.shares() if share.low} == {D}


def test_rounds_of_other_groups_and_of_before_count_for_nobody() -> None:
    counted = Participation(A)
    counted.enter((A, B, C, D))
    counted.count((A, B), (A, B), 0)
    counted.enter((A, B, C, D, E))
    counted.count((A, C, E), (A, C, E), 0)
    assert took(counted) == {B: (1, 1), C: (1, 1), D: (0, 0), E: (1, 1)}


def test_nobody_asks_after_who_is_gone_for_good() -> None:
    counted = Participation(A, listed=(A, B, C), gone=(C,))
    for minute in range(RECENT):
        counted.count((A,), (A,), 60 * minute)
    assert [share.peer for share in counted.shares() if share.low] == [B]
    counted.leave(B)
    counted.count((A,), (A,), 60 * RECENT)
    assert counted.shares() == []


def test_nobody_is_missed_after_a_round_or_two() -> None:
    counted = Participation(A, listed=(A, B))
    for minute in range(LEAST):
        counted.count((A,), (A,), 60 * minute)
    assert [share.low for share in counted.shares()] == [False]
    counted.count((A,), (A,), 60 * LEAST)
    assert [share.low for share in counted.shares()] == [True]


def test_a_newcomer_has_a_minute_to_come() -> None:
    quick, slow = Participation(A), Participation(A)
    for counted in (quick, slow):
        counted.enter((A, B))
        for second in range(LEAST):
            counted.count((A, B), (A,), 1000 + second)
            assert not counted.shares()[0].low
    quick.count((A, B), (A, B), 1010)
    for second in range(LEAST):
        quick.count((A, B), (A,), 1011 + second)
    (share,) = quick.shares()
    assert (share.recent, share.recent_of, share.took, share.of) == (1, 1 + LEAST, 1, 1 + 2 * LEAST)
    assert share.low, "once it took part it is missed like any other"
    for second in range(LEAST):
        assert not slow.shares()[0].low
        slow.count((A, B), (A,), 1000 + NEW_SECONDS + second)
    assert slow.shares()[0].low


def test_it_follows_from_the_receipts_after_a_restart(tmp_path: Path) -> None:
    counted = Participation(A, listed=(B,))
    with Store.open(tmp_path, Identity.from_seed(bytes([1]) * 32)) as store:
        for round, here in enumerate([(A, B, C), (A, B, C), (A, C), (A, C)]):
            store.enter_epoch(round, here)
            store.enter_epoch(round, here)
            counted.enter(here)
            counted.count(here, here, 0)
            store.record_round(RoundOutcome(round, "training", here, here, "", True, 0), Course(here))
        store.record_round(RoundOutcome(9, "training", (), (), "alone", True, 0), Course((A, B, C)))
    with Store.open(tmp_path, Identity.from_seed(bytes([1]) * 32), readonly=True) as store:
        assert len(store.populations()) == 2
        again = Participation.of(A, (B,), [kept.receipt for kept in store.receipts()], store.populations())
    assert again.shares() == counted.shares()
    assert took(again) == {B: (2, 4), C: (4, 4)}
