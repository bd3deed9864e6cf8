"""Who sends too much is read more slowly; who keeps coming for nothing is turned away at once."""

import math

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from transports import Club, identity, next_of, pair, run, run_in_virtual_time, running, transport

from p2pfl.node.hardened import allowance
from p2pfl.node.hardened.allowance import (
    ADDRESS_A_SECOND,
    ADDRESS_BURST,
    KNOWN_ADDRESSES,
    STRANGERS_A_SECOND,
    STRANGERS_BURST,
    Allowance,
    Arrivals,
)
from p2pfl.node.transport.network import AdmissionRefused, MessageReceived, Unreachable
from p2pfl.node.transport.session import BURST_SECONDS


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 50)), max_size=30))
def test_in_any_time_no_more_is_taken_than_the_burst_and_what_came_since(
    steps: list[tuple[float, int]],
) -> None:
    allowed, now, taken = Allowance(100, 10, 0.0), 0.0, 0.0
    for waits, size in steps:
        now += waits
        now += allowed.take(size, now)  # as one does who waits as told
        taken += size
        assert taken <= 100 + 10 * now + 1e-6


def test_an_address_of_strangers_is_turned_away_and_others_are_not() -> None:
    arrivals = Arrivals(0.0)
    came = sum(arrivals.may_come("192.0.2.1", 0.0) for _ in range(10 * ADDRESS_BURST))
    assert came == ADDRESS_BURST
    assert arrivals.may_come("192.0.2.2", 0.0)
    assert sum(arrivals.may_come("192.0.2.1", 10.0) for _ in range(100)) == 10 * ADDRESS_A_SECOND


def test_members_may_come_as_often_as_they_like() -> None:
    arrivals = Arrivals(0.0)
    for _ in range(10 * STRANGERS_BURST):
        assert arrivals.may_come("192.0.2.1", 0.0)
        arrivals.admitted("192.0.2.1", 0.0)


@pytest.mark.parametrize("form", ["10.{}.{}.1", "2001:db8:{:x}:{:x}::1"])
def test_many_addresses_of_strangers_leave_the_way_of_members_open(form: str) -> None:
    arrivals = Arrivals(0.0)
    assert arrivals.may_come("192.0.2.1", 0.0)
    arrivals.admitted("192.0.2.1", 0.0)
    came = sum(arrivals.may_come(form.format(n >> 8, n & 255), 0.0) for n in range(2 * KNOWN_ADDRESSES))
    assert came == STRANGERS_BURST
    assert arrivals.may_come("192.0.2.1", 0.0)
    assert not arrivals.may_come("192.0.2.2", 0.0)
    assert arrivals.may_come("192.0.2.2", 2 / STRANGERS_A_SECOND)
    assert len(arrivals._by_address) <= KNOWN_ADDRESSES


def test_one_customers_addresses_count_as_one() -> None:
    arrivals = Arrivals(0.0)
    same = [f"2001:db8::{n:x}" for n in range(2 * ADDRESS_BURST)]
    assert sum(arrivals.may_come(ip, 0.0) for ip in same) == ADDRESS_BURST
    assert arrivals.may_come("::ffff:192.0.2.1", 0.0)
    assert arrivals.may_come("fe80::1%eth0", 0.0)


def test_a_stranger_that_keeps_coming_is_not_even_shaken_hands_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allowance, "ADDRESS_BURST", 3)
    monkeypatch.setattr(allowance, "ADDRESS_A_SECOND", 1e-6)

    async def main() -> None:
        node, stranger = transport(1), transport(2, Club(says=b"wrong"))
        async with running(node, stranger):
            for _ in range(3):
                with pytest.raises(AdmissionRefused, match="not the password"):
                    await stranger.connect(node.addresses[0])
            with pytest.raises(Unreachable):
                await stranger.connect(node.addresses[0])

    run(main)


def test_who_is_let_in_unproved_comes_as_strangers_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allowance, "ADDRESS_BURST", 3)
    monkeypatch.setattr(allowance, "ADDRESS_A_SECOND", 1e-6)
    member = identity(2).peer_id

    async def main() -> None:
        node = transport(1, is_proved=lambda peer: peer == member)
        others = [transport(number) for number in range(2, 7)]
        async with running(node, *others):
            for other in others[:-1]:  # the first of them is a member, and takes nobody's turn
                await other.connect(node.addresses[0])
            with pytest.raises(Unreachable):
                await others[-1].connect(node.addresses[0])

    run(main)


def test_a_peer_that_sends_more_messages_than_agreed_is_read_more_slowly() -> None:
    async def main() -> None:
        one, two = transport(1), transport(2, messages_a_second=10)
        async with running(one, two):
            await pair(one, two)
            began = trio.current_time()
            for _ in range(100):
                one.send(identity(2).peer_id, b"x")
            for _ in range(100):
                await next_of(two, MessageReceived)
            spent = trio.current_time() - began
            assert math.isclose(spent, (100 - 10 * BURST_SECONDS) / 10, rel_tol=0.2)
            assert identity(1).peer_id in two.connected

    run_in_virtual_time(main)


def test_bytes_count_too() -> None:
    async def main() -> None:
        one, two = transport(1), transport(2, bytes_a_second=1000)
        async with running(one, two):
            await pair(one, two)
            began = trio.current_time()
            for _ in range(2):
                one.send(identity(2).peer_id, bytes(5000))
                await next_of(two, MessageReceived)
            assert 4 < trio.current_time() - began < 8

    run_in_virtual_time(main)
