"""The search for secrets among right and wrong shares: what it finds, and what it costs at most."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from math import comb

import pytest

from p2pfl.crypto import labels
from p2pfl.crypto.randomness import seeded_random
from p2pfl.gossip.masking import Secrets
from p2pfl.gossip.messages import Ready
from p2pfl.gossip.recovery import MAX_SUBSETS, Recovery, _neighbours, _subsets
from p2pfl.gossip.rehearsal import identity_of
from p2pfl.gossip.roster import Roster
from p2pfl.gossip.suite import SUITE, Suite
from p2pfl.gossip.wire import digest


class Shared:
    """The shares of everybody's self-mask seed, and how often some were combined."""

    def __init__(self, members: int, colluders: int = 1) -> None:
        self.tries = Counter[frozenset[int]]()
        self.secrets = [Secrets.fresh(SUITE, seeded_random(b"%d" % number)) for number in range(members)]
        readies = [
            Ready(
                identity_of(number).peer_id,
                *(bytes(32), bytes(32), 7, 0, "training", 4),
                *(own.mask_key.public, own.bundle_key.public, SUITE.commit(own.seed), bytes(32)),
            )
            for number, own in enumerate(self.secrets)
        ]
        self.roster = Roster.of(readies, colluders)
        self.threshold = self.roster.thresholds.threshold
        self.dealt = [
            SUITE.split(own.seed, members, self.threshold, seeded_random(b"split")) for own in self.secrets
        ]

    def search(self, quick: bool = False) -> Recovery:
        """``quick``: nothing is put together; whatever is asked for is wrong."""

        def combine(shares: Mapping[int, bytes], threshold: int) -> bytes:
            self.tries[frozenset(shares)] += 1
            return bytes(32) if quick else SUITE.combine(shares, threshold)

        suite: Suite = replace(SUITE, combine=combine)
        return Recovery(self.roster, suite, frozenset(range(len(self.secrets))))

    def reveals(
        self, holders: Iterable[int], wrong: Mapping[int, Collection[int]]
    ) -> dict[int, Sequence[bytes]]:
        """What these reveal; ``wrong`` are the holders of a wrong share, by owner."""
        return {
            holder: [
                bytes([0, 7] * 16 + [holder]) if holder in wrong.get(owner, ()) else shares[holder]
                for owner, shares in enumerate(self.dealt)
            ]
            for holder in holders
        }


def test_it_finds_every_secret_as_soon_as_enough_right_shares_of_it_are_there() -> None:
    shared = Shared(8)
    wrong = {2: (0, 3), 5: (1, 6)}
    search = shared.search()
    for count in range(shared.threshold, 9):
        search = search.with_shares(shared.reveals(range(count), wrong))
        assert search.complete == (count >= 7)
    assert [search.secrets[owner] for owner in range(8)] == [own.seed for own in shared.secrets]


@pytest.mark.parametrize(("members", "colluders"), [(7, 1), (8, 1), (9, 3)])
def test_shares_that_come_one_by_one_are_as_good_as_all_at_once(members: int, colluders: int) -> None:
    shared = Shared(members, colluders)
    for bad in combinations(range(members), members - shared.threshold):
        search = shared.search()
        for count in range(shared.threshold, members + 1):
            search = search.with_shares(shared.reveals(range(count), {0: bad}))
        assert search.complete, bad


def test_no_subset_is_tried_twice_but_for_those_of_neighbours() -> None:
    """Of eleven, as they come: every subset once, where every search had begun again with all of them."""
    shared = Shared(11)
    search, few = shared.search(quick=True), shared.threshold
    for count in range(few, 12):
        search = search.with_shares(shared.reveals(range(count), {}))
    assert len(shared.tries) == comb(11, few)
    assert shared.tries.total() <= comb(11, few) + sum(range(few, 12))


def test_what_a_dealer_of_random_shares_costs_is_bounded_in_the_largest_group() -> None:
    shared = Shared(32)
    search = shared.search(quick=True)
    for count in range(shared.threshold, 33):
        search = search.with_shares(shared.reveals(range(count), {}))
    assert MAX_SUBSETS <= shared.tries.total() <= MAX_SUBSETS + sum(range(33))
    assert search.left == 0


def test_and_neighbours_are_tried_even_then() -> None:
    shared = Shared(32)
    search = replace(shared.search(), left=0).with_shares(shared.reveals(range(32), {0: (0, 4, 9)}))
    assert search.complete


def test_whose_share_was_wrong_is_not_asked_first_again() -> None:
    """Three of sixteen that no row of neighbours avoids lie about everything: one search finds them out."""
    shared = Shared(16, 3)
    lies = dict.fromkeys(range(16), (0, 5, 10))
    search = shared.search().with_shares(shared.reveals(range(16), lies))
    assert search.complete
    assert search.doubted == {0, 5, 10}
    once = Counter[frozenset[int]](shared.tries)
    shared.tries.clear()
    shared.search().with_shares(shared.reveals(range(16), {0: (0, 5, 10)}))
    assert once.total() <= shared.tries.total() + 16 * 16


def test_every_subset_is_among_them() -> None:
    assert {tuple(sorted(each)) for each in _subsets(range(8), 6, set())} == set(combinations(range(8), 6))
    new = {tuple(sorted(each)) for each in _subsets(range(8), 6, set(range(7)))}
    assert new == {each for each in combinations(range(8), 6) if 7 in each}
    assert list(_subsets([0, 1], 3, set())) == list(_neighbours([0, 1], 3)) == []
    assert [set(each) for each in _neighbours([0, 1, 2], 2)] == [{0, 1}, {1, 2}, {0, 2}]


def test_secrets_have_no_representation() -> None:
    shared = Shared(4)
    search = shared.search().with_shares(shared.reveals(range(4), {}))
    assert search.complete
    assert "secrets" not in repr(search)
    assert digest(labels.SELF_MASK_COMMITMENT, search.secrets[1]) == shared.roster.readies[1].commitment
