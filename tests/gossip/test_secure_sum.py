"""One attempt's machine driven by hand."""

from collections.abc import Callable, Iterable

import numpy as np
import pytest
from attempts import DIM, GROUP, IDENTITIES, VALUES, Bench, a_roster

from p2pfl.gossip.errors import LocalProtocolError, RemoteProtocolError
from p2pfl.gossip.events import Completed, Compute, Contribute, Effect, Evidence, Send
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
    Result,
    Reveal,
    SumMessage,
    Survivors,
)
from p2pfl.gossip.wire import Message, signed


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
