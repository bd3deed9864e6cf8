"""Sets of presences: the same whatever the order; and the beacon: nobody chooses it."""

from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfl.crypto.identity import Identity
from p2pfl.gossip.epoch_messages import MAX_ROSTER, NOTHING, Presence, commitment_to
from p2pfl.gossip.presences import Added, Author, PresenceSet
from p2pfl.gossip.wire import signed

FEDERATION = bytes(range(32))
IDENTITIES = [Identity.from_seed(bytes([number]) * 32) for number in range(6)]
AUTHORS = [Author(identity, FEDERATION, ()) for identity in IDENTITIES]
PEERS = [identity.peer_id for identity in IDENTITIES]


def gathered(epoch: int, numbers: range, previous: bytes = NOTHING) -> PresenceSet:
    return PresenceSet(FEDERATION, epoch, (AUTHORS[number].presence(epoch, previous) for number in numbers))


def forged(number: int, presence: Presence, **changes: object) -> Presence:
    return signed(IDENTITIES[number], replace(presence, **changes))  # type: ignore[arg-type]


VARIANTS = [
    variant
    for number in range(3)
    for variant in (
        AUTHORS[number].presence(4, NOTHING),
        AUTHORS[number].presence(4, bytes([1]) * 32),
        forged(number, AUTHORS[number].presence(4, NOTHING), nonce=bytes(32)),
    )
]


@given(st.lists(st.sampled_from(VARIANTS)), st.randoms(use_true_random=False))
def test_order_and_repetition_do_not_matter(drawn: list[Presence], shuffler) -> None:  # type: ignore[no-untyped-def]
    one = PresenceSet(FEDERATION, 4, drawn)
    shuffler.shuffle(drawn)
    other = PresenceSet(FEDERATION, 4, [*drawn, *drawn])
    assert one.digest == other.digest
    assert one.roster == other.roster
    assert PresenceSet(FEDERATION, 4, one.all()).digest == one.digest


@given(st.lists(st.sampled_from(VARIANTS)), st.lists(st.sampled_from(VARIANTS)))
def test_equal_digests_mean_equal_rosters(one: list[Presence], other: list[Presence]) -> None:
    first, second = PresenceSet(FEDERATION, 4, one), PresenceSet(FEDERATION, 4, other)
    if first.digest == second.digest:
        assert first.roster == second.roster
        assert first.authors == second.authors
    else:
        assert set(one) != set(other)


def test_two_presences_of_one_author_exclude_it_whichever_two_they_are() -> None:
    three = VARIANTS[:3]
    sets = [PresenceSet(FEDERATION, 4, [*pair, VARIANTS[3]]) for pair in permutations(three, 2)]
    assert {found.roster for found in sets} == {(PEERS[1],)}
    assert len({found.digest for found in sets}) == 1
    assert all(len(found.held(PEERS[0])) == 2 for found in sets)


def test_what_became_of_a_presence() -> None:
    found = PresenceSet(FEDERATION, 4)
    assert [found.add(variant) for variant in (*VARIANTS[:3], VARIANTS[0])] == [
        Added.NEW,
        Added.SECOND,
        Added.KNOWN,
        Added.KNOWN,
    ]
    moved = forged(1, VARIANTS[3], addresses=("/ip4/10.0.0.1/tcp/1",))
    assert found.add(VARIANTS[3]) is Added.NEW
    assert found.add(moved) is Added.KNOWN


def test_a_set_has_room_for_so_many() -> None:
    found = PresenceSet(FEDERATION, 4)
    for number in range(MAX_ROSTER + 1):
        author = Author(Identity.from_seed(number.to_bytes(32, "big")), FEDERATION, ())
        expected = Added.NEW if number < MAX_ROSTER else Added.REFUSED
        assert found.add(author.presence(4, NOTHING)) is expected
    assert len(found.roster) == MAX_ROSTER


def test_epochs_and_federations_have_other_digests() -> None:
    elsewhere = PresenceSet(bytes(32), 4)
    assert len({PresenceSet(FEDERATION, 4).digest, PresenceSet(FEDERATION, 5).digest, elsewhere.digest}) == 3


def test_the_ticket_is_part_of_what_the_digest_names() -> None:
    """Who judges a roster by its digest must judge the same tickets."""
    shown = Author(IDENTITIES[0], FEDERATION, (), "a ticket").presence(4, NOTHING)
    assert PresenceSet(FEDERATION, 4, [shown]).digest != PresenceSet(FEDERATION, 4, [VARIANTS[0]]).digest


def test_who_is_dropped_leaves_no_trace() -> None:
    for drawn in ([VARIANTS[0]], VARIANTS[:2]):
        found = PresenceSet(FEDERATION, 4, [*drawn, VARIANTS[3]])
        before = found.digest
        found.drop(PEERS[0])
        assert found.digest == PresenceSet(FEDERATION, 4, [VARIANTS[3]]).digest != before
        assert found.authors == {PEERS[1]}
        found.drop(PEERS[0])


# Beacons.


def test_a_node_that_lost_its_memory_reveals_what_it_had_committed_to() -> None:
    before, after = (
        AUTHORS[0].presence(6, NOTHING),
        Author(IDENTITIES[0], FEDERATION, ()).presence(7, NOTHING),
    )
    assert before.commitment == commitment_to(FEDERATION, 7, PEERS[0], after.nonce)


def test_nonces_differ_between_epochs_federations_and_authors() -> None:
    other = Author(IDENTITIES[0], bytes(32), ())
    presences = [author.presence(1, NOTHING) for author in (*AUTHORS[:2], other)]
    assert len({p.nonce for p in (*presences, AUTHORS[0].presence(2, NOTHING))}) == 4


def test_every_reveal_counts_and_nothing_else_does() -> None:
    previous = gathered(6, range(4))
    rosters = [gathered(7, range(count), previous.digest) for count in range(2, 6)]
    beacons = [roster.beacon(previous) for roster in rosters]
    assert len(set(beacons[:3])) == 3
    assert beacons[3] == beacons[2]  # number 4 had not committed
    without = rosters[2].beacon(None)
    assert without == rosters[0].beacon(None)
    assert without not in beacons


def test_what_can_be_chosen_after_the_others_revealed_does_not_enter() -> None:
    previous = gathered(6, range(4))
    honest = gathered(7, range(3), previous.digest)
    last = AUTHORS[3].presence(7, previous.digest)
    wanted = PresenceSet(FEDERATION, 7, [*honest.all(), last]).beacon(previous)
    for chosen in (
        forged(3, last, addresses=("/ip4/10.0.0.3/tcp/1",)),
        forged(3, last, commitment=bytes(32)),
        forged(3, last, previous=NOTHING),
    ):
        assert PresenceSet(FEDERATION, 7, [*honest.all(), chosen]).beacon(previous) == wanted


def test_a_wrong_reveal_is_ignored() -> None:
    previous = gathered(6, range(4))
    honest = gathered(7, range(3), previous.digest)
    beacons = {
        PresenceSet(
            FEDERATION,
            7,
            [*honest.all(), forged(3, AUTHORS[3].presence(7, previous.digest), nonce=bytes([n]) * 32)],
        ).beacon(previous)
        for n in range(5)
    }
    assert beacons == {honest.beacon(previous)}


def test_who_signed_two_presences_has_committed_to_nothing() -> None:
    previous = gathered(6, range(4))
    roster = gathered(7, range(4), previous.digest)
    wanted = roster.beacon(previous)
    previous.add(forged(3, AUTHORS[3].presence(6, NOTHING), nonce=bytes(32)))
    assert roster.beacon(previous) == gathered(7, range(3), previous.digest).beacon(previous) != wanted


def test_commitments_of_an_older_epoch_do_not_count() -> None:
    older, roster = gathered(5, range(4)), gathered(7, range(4))
    assert roster.beacon(older) == roster.beacon(None)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ([1, 1, 1, 2], 1),
        ([2, 2, 2, 1, 0], 2),
        ([1, 2, 1, 2], None),
        ([2, 2, 1, 0], None),
        ([1, 1, 0, 0, 0, 0], None),  # colluders after a restart of all others
        ([0, 0, 0, 0], None),
        ([1], None),  # no more than the colluders
    ],
)
def test_the_previous_roster_is_the_one_that_more_than_half_name(names: list[int], found: int | None) -> None:
    roster = PresenceSet(
        FEDERATION, 7, (AUTHORS[number].presence(7, bytes([name]) * 32) for number, name in enumerate(names))
    )
    assert roster.previous_roster(1) == (None if found is None else bytes([found]) * 32)


def test_frozen() -> None:
    """Another implementation must come to exactly these."""
    previous = gathered(6, range(4))
    roster = gathered(7, range(4), previous.digest)
    assert (
        AUTHORS[0].presence(6, NOTHING).nonce.hex()
        == "25156bc689cf14a55281e38a232f900a54de0b66db2dc65c8e024723d8f27141"
    )
    assert previous.digest.hex() == "dbde4e685cbbe76857131d74537d0fd941e090e657325676da1c36bf25ff70c6"
    assert roster.beacon(previous).hex() == "16144426950694a01a25a633c521d28557c4e175bb80c880312fefe2a3f91b80"
    assert roster.beacon(None).hex() == "5afb904cf3c52e9d272a0b4b0cf26cb51510487cdd8d26551ce5c8935e7c3b4c"
