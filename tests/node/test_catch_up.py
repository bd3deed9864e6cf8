from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from p2pfl.crypto.identity import PeerId
from p2pfl.gossip.canonical import pack
from p2pfl.node.errors import NetworkError
from p2pfl.node.membership.catch_up import STRAGGLER_SECONDS, Summary, agreed_state, newest_agreed
from p2pfl.node.released import Released

A, B, C = PeerId("A"), PeerId("B"), PeerId("C")


def model(round: int, value: float = 0.0) -> Released:
    return Released(round, 1, np.array([1.0]), np.array([value]))


class Neighbours:
    """What each neighbour holds, newest first; None answers nothing. Plays the transport's request."""

    def __init__(self, holds: dict[PeerId, list[Released] | None]) -> None:
        self.holds = holds
        self.lies: dict[PeerId, Released] = {}
        self.plausible: Callable[[Released], bool] = lambda released: True
        self.seconds = 0.0  # that it took

    async def ask(self, peer: PeerId, name: str, body: bytes, most: int) -> bytes:
        held = self.holds[peer]
        if held is None:
            raise NetworkError("no answer", "none")
        if name == "summary":
            return Summary(tuple((release.round, release.digest) for release in held), False).to_bytes()
        if peer in self.lies:
            return self.lies[peer].to_bytes()
        return next(release.to_bytes() for release in held if release.digest == body)

    async def state(self, peer: PeerId, digest: bytes) -> Released:
        return Released.from_untrusted(await self.ask(peer, "state", digest, 100), 1, 1)

    def fetch(self, newer_than: int = -1, agreeing: int = 2, before: int = 100) -> Released | None:
        async def main() -> Released | None:
            return await agreed_state(
                self.ask, lambda: self.holds, self.state, (newer_than, before), agreeing, self.plausible
            )

        async def timed() -> Released | None:
            began = trio.current_time()
            found = await main()
            self.seconds = trio.current_time() - began
            return found

        return trio.run(timed, clock=trio.testing.MockClock(autojump_threshold=0))


def test_two_that_agree_are_enough() -> None:
    found = Neighbours({A: [model(5, 1.0)], B: [model(5, 1.0)], C: None}).fetch()
    assert found is not None
    assert found.digest == model(5, 1.0).digest


def test_one_alone_is_not_believed() -> None:
    assert Neighbours({A: [model(9, 6.66)], B: [model(5, 1.0)], C: None}).fetch() is None


def test_neighbours_one_round_apart_agree_on_the_older() -> None:
    found = Neighbours({A: [model(6, 2.0), model(5, 1.0)], B: [model(5, 1.0), model(4)]}).fetch()
    assert found is not None
    assert found.round == 5


def test_nothing_older_than_ours_is_taken() -> None:
    assert Neighbours({A: [model(5)], B: [model(5)]}).fetch(newer_than=5) is None


def test_a_holder_that_sends_another_model_is_passed_over() -> None:
    neighbours = Neighbours({A: [model(5, 1.0)], B: [model(5, 1.0)]})
    neighbours.lies[A] = model(5, 6.66)
    found = neighbours.fetch()
    assert found is not None
    assert found.parameters[0] == 1.0


def test_who_answers_nothing_holds_nobody_up() -> None:
    """It takes part in rounds, and is silent when asked. Whoever comes back would never be in time."""
    neighbours = Neighbours({peer: [model(5)] for peer in (A, B, C)})
    ask = neighbours.ask

    async def silent(peer: PeerId, name: str, body: bytes, most: int) -> bytes:
        await trio.sleep(5.0 if peer == C else 0.1)
        return await ask(peer, name, body, most)

    neighbours.ask = silent  # type: ignore[method-assign]
    assert neighbours.fetch() is not None
    assert neighbours.seconds <= 0.1 + STRAGGLER_SECONDS + 0.1


def test_nor_does_a_holder_that_stalls_hold_everybody_up_every_time() -> None:
    """It is the first to say what it holds, and never the first to send it."""
    neighbours = Neighbours({peer: [model(5)] for peer in (A, B, C)})
    ask, asked = neighbours.ask, Counter[PeerId]()

    async def noted(peer: PeerId, name: str, body: bytes, most: int) -> bytes:
        asked[peer] += name == "state"
        await trio.sleep(0.0 if peer == A else 0.1)
        return await ask(peer, name, body, most)

    neighbours.ask = noted  # type: ignore[method-assign]
    for _ in range(60):
        neighbours.fetch()
    assert max(asked.values()) < 50


def test_newest_of_several_agreed() -> None:
    def summary(*models: Released) -> Summary:
        return Summary(tuple((release.round, release.digest) for release in models), False)

    found = newest_agreed({A: summary(model(7), model(6)), B: summary(model(7), model(6))}, (-1, 9), 2)
    assert found is not None
    assert found[0] == model(7).digest
    assert set(found[1]) == {A, B}


@pytest.mark.parametrize(("ahead", "taken"), [(2, False), (3, True)])
def test_a_node_gives_up_its_model_only_if_most_have_a_newer_one(ahead: int, taken: bool) -> None:
    """Two of four may have spoilt a round, and now claim that only they completed it."""
    holds: dict[PeerId, list[Released] | None] = {
        PeerId(str(peer)): [model(9, 6.66) if peer < ahead else model(5)] for peer in range(4)
    }
    assert (Neighbours(holds).fetch(newer_than=5) is not None) is taken
    assert Neighbours(holds).fetch(newer_than=-1) is not None


def test_of_the_round_that_we_are_in_nothing_is_taken_yet() -> None:
    """A faster group has finished it; its model is not where ours begins."""
    found = Neighbours({A: [model(6), model(5)], B: [model(6), model(5)]}).fetch(before=6)
    assert found is not None
    assert found.round == 5


@pytest.mark.parametrize(("honest", "round"), [(3, 9), (4, 5), (8, 5)])
def test_two_liars_with_something_newer_do_not_outbid_a_group(honest: int, round: int) -> None:
    """Three holders cannot be told from a federation in which two are a round ahead; four can."""
    holds: dict[PeerId, list[Released] | None] = {PeerId(str(peer)): [model(5)] for peer in range(honest)}
    found = Neighbours(holds | {A: [model(9, 6.66)], B: [model(9, 6.66)]}).fetch()
    assert found is not None
    assert found.round == round


@given(st.binary(max_size=600))
def test_any_bytes_are_a_summary_or_a_value_error(data: bytes) -> None:
    try:
        Summary.from_untrusted(data)
    except ValueError:
        pass


@pytest.mark.parametrize(
    "data",
    [
        pack([[[1, bytes(32)]] * 3, False]),
        pack([[[1, bytes(31)]], False]),
        pack([[[-1, bytes(32)]], False]),
        pack([[[1, bytes(32)]], 0]),
        pack([]),
    ],
)
def test_malformed_summaries_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        Summary.from_untrusted(data)


def test_more_colluders_need_more_agreement() -> None:
    neighbours = Neighbours({A: [model(9, 6.66)], B: [model(9, 6.66)], C: [model(5)]})
    assert neighbours.fetch(agreeing=3) is None


def test_saying_it_twice_is_still_one_voice() -> None:
    evil = model(9, 6.66)
    assert Neighbours({A: [evil, evil], B: [model(5)]}).fetch() is None


def test_what_cannot_be_is_not_taken_whoever_agrees_on_it() -> None:
    neighbours = Neighbours({A: [model(9)], B: [model(9)]})
    neighbours.plausible = lambda released: released.round < 9
    assert neighbours.fetch() is None
