import itertools
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from p2pfl.crypto.identity import Identity, PeerId
from p2pfl.node.errors import NetworkError
from p2pfl.node.finding.discovery import (
    HEARSAY_TRIES,
    LONGEST_DELAY,
    LONGEST_RELAYED_DELAY,
    MOST_ADDRESSES,
    MOST_CALLS,
    MOST_HEARSAY,
    MOST_HINTED,
    Dialler,
    peer_of,
)

OWN, OTHER, THIRD = (Identity.from_seed(bytes([i]) * 32).peer_id for i in range(3))
ADDRESS = f"/ip4/127.0.0.1/tcp/4001/p2p/{OTHER}"


class Network:
    """Addresses that answer; counts the attempts and their times."""

    def __init__(self) -> None:
        self.up: set[str] = set()
        self.here: set[PeerId] = set()
        self.tries: list[float] = []

    async def connect(self, address: str) -> PeerId:
        self.tries.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        if address not in self.up:
            raise NetworkError("refused", "none")
        peer = peer_of(address)
        assert peer is not None
        self.here.add(peer)
        return peer


async def nothing() -> None:
    pass


def run(
    network: Network, dialler: Dialler, seconds: float, act: Callable[[], Awaitable[None]] = nothing
) -> None:
    async def main() -> None:
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(act)
                await dialler.run()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_dials_what_is_wanted_and_stops_when_connected() -> None:
    network = Network()
    network.up = {ADDRESS}
    dialler = Dialler(OWN, network.connect, lambda: network.here)
    dialler.want([ADDRESS])
    run(network, dialler, 300)
    assert network.here == {OTHER}
    assert len(network.tries) == 1


def test_never_dials_itself_or_an_address_without_a_peer() -> None:
    network = Network()
    dialler = Dialler(OWN, network.connect, lambda: network.here)
    dialler.want([f"/ip4/127.0.0.1/tcp/4001/p2p/{OWN}", "/ip4/127.0.0.1/tcp/4001", "nonsense"])
    run(network, dialler, 300)
    assert network.tries == []


def test_backs_off_but_never_gives_up() -> None:
    network = Network()
    dialler = Dialler(OWN, network.connect, lambda: network.here)
    dialler.want([ADDRESS])
    run(network, dialler, 3600)
    gaps = [later - earlier for earlier, later in zip(network.tries, network.tries[1:], strict=False)]
    assert gaps[0] < 2
    assert max(gaps) <= 1.5 * LONGEST_DELAY + 1
    assert 3600 / (1.5 * LONGEST_DELAY) <= len(network.tries) <= 3600 / (0.5 * LONGEST_DELAY) + 10


def test_second_address_is_tried_when_the_first_is_dead() -> None:
    network = Network()
    other = f"/ip4/127.0.0.1/tcp/4002/p2p/{OTHER}"
    network.up = {other}
    dialler = Dialler(OWN, network.connect, lambda: network.here)
    dialler.want([ADDRESS, other])
    run(network, dialler, 10)
    assert network.here == {OTHER}


def test_peer_of() -> None:
    assert peer_of(ADDRESS) == OTHER
    assert peer_of("/ip4/127.0.0.1/tcp/4001") is None
    assert peer_of("") is None


def test_hearsay_is_forgotten_and_bounded() -> None:
    network = Network()
    dialler = Dialler(OWN, network.connect, lambda: network.here)
    strangers = [Identity.from_seed(number.to_bytes(32, "big")).peer_id for number in range(1000, 1400)]
    dialler.try_reaching(
        f"/ip4/127.0.0.1/tcp/{number}/p2p/{peer}" for number, peer in enumerate(strangers, 1)
    )
    run(network, dialler, 3600)
    assert len(network.tries) == MOST_HEARSAY * HEARSAY_TRIES


def test_a_peer_reached_by_hearsay_is_kept() -> None:
    network = Network()
    network.up = {ADDRESS}
    dialler = Dialler(OWN, network.connect, lambda: network.here)
    dialler.try_reaching([ADDRESS])
    run(network, dialler, 10)
    assert network.here == {OTHER}
    network.here, network.up = set(), set()
    run(network, dialler, 3600)
    assert len(network.tries) > HEARSAY_TRIES + 1


def test_whoever_called_us_is_called_back_when_it_is_lost() -> None:
    """Its address is learnt while it is connected: no call then, and one soon after."""
    network = Network()
    network.up, network.here = {ADDRESS}, {OTHER}
    dialler = Dialler(OWN, network.connect, lambda: network.here)
    dialler.try_reaching([ADDRESS])

    async def lose() -> None:
        await trio.sleep(300)
        assert network.tries == []
        network.here = set()
        dialler.lost(OTHER)

    run(network, dialler, 310, lose)
    assert network.here == {OTHER}
    assert len(network.tries) == 1


def test_a_dead_address_delays_neither_its_peers_others_nor_other_peers() -> None:
    """As a firewall makes it: nothing answers, for as long as one waits."""
    network, dead = Network(), f"/ip4/192.0.2.1/tcp/4001/p2p/{OTHER}"
    third = f"/ip4/127.0.0.1/tcp/4003/p2p/{THIRD}"
    network.up = {ADDRESS, third}
    ended: list[str] = []

    async def connect(address: str) -> PeerId:
        if address != dead:
            return await network.connect(address)
        try:
            await trio.sleep(15)
        finally:
            ended.append(address)
        raise NetworkError("timed out", "none")

    dialler = Dialler(OWN, connect, lambda: network.here)
    dialler.want([dead, ADDRESS, third])
    run(network, dialler, 1)
    assert network.here == {OTHER, THIRD}
    assert ended == [dead]


def test_who_keeps_naming_other_addresses_of_a_peer_does_not_have_them_called_faster() -> None:
    """They may be somebody else's, where nothing answers."""
    under_way: list[str] = []
    most = [0]

    async def connect(address: str) -> PeerId:
        under_way.append(address)
        most.append(len(under_way))
        await trio.sleep(15)
        under_way.remove(address)
        raise NetworkError("timed out", "none")

    dialler = Dialler(OWN, connect, lambda: ())

    async def name_others() -> None:
        for port in range(1, 2000):
            dialler.try_reaching([f"/ip4/192.0.2.1/tcp/{port}/p2p/{OTHER}"])
            await trio.sleep(0.1)

    run(Network(), dialler, 200, name_others)
    assert max(most) == MOST_CALLS * MOST_ADDRESSES


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 0, 2]])
def test_bootstrap_addresses_may_be_several_in_any_order_and_some_dead(order: list[int]) -> None:
    network = Network()
    addresses = [ADDRESS, f"/ip4/127.0.0.1/tcp/4003/p2p/{THIRD}", "/ip4/127.0.0.1/tcp/1/p2p/nobody"]
    network.up = {addresses[1]}
    dialler = Dialler(OWN, network.connect, lambda: network.here)
    dialler.want(addresses[each] for each in order)
    run(network, dialler, 1)
    assert network.here == {THIRD}


def test_what_worked_last_is_tried_first() -> None:
    network, tried = Network(), []
    new = f"/dns4/hospital.example/tcp/4001/p2p/{OTHER}"
    network.up = {new}

    async def connect(address: str) -> PeerId:
        tried.append(address)
        return await network.connect(address)

    reached: list[PeerId] = []
    dialler = Dialler(OWN, connect, lambda: network.here, reached=reached.append)
    dialler.want([ADDRESS, new])

    async def lose() -> None:
        await trio.sleep(10)
        network.here = set()
        dialler.lost(OTHER)

    run(network, dialler, 20, lose)
    assert tried == [ADDRESS, new, new]
    assert dialler.addresses(OTHER) == (new, ADDRESS)
    assert reached == [OTHER, OTHER]
    dialler.try_reaching(f"/ip4/127.0.0.1/tcp/{port}/p2p/{OTHER}" for port in range(1, 99))
    assert dialler.addresses(OTHER)[0] == new
    assert len(dialler.addresses(OTHER)) == MOST_ADDRESSES


def test_what_strangers_say_neither_displaces_nor_hurries_what_members_say() -> None:
    network = Network()
    dialler = Dialler(OWN, network.connect, lambda: network.here)
    dialler.want([ADDRESS])

    async def shout() -> None:
        for port in range(1, 300):
            dialler.hint([f"/ip4/192.0.2.1/tcp/{port}/p2p/{OTHER}"])
            await trio.sleep(0.1)

    run(network, dialler, 30, shout)
    assert dialler.addresses(OTHER) == (ADDRESS,)
    assert len(network.tries) < 3 * 10


def test_strangers_leave_room_for_members() -> None:
    network = Network()
    dialler = Dialler(OWN, network.connect, lambda: network.here)
    strangers = [Identity.from_seed(number.to_bytes(32, "big")).peer_id for number in range(1000, 1200)]
    dialler.hint(f"/ip4/127.0.0.1/tcp/1/p2p/{peer}" for peer in strangers)
    run(network, dialler, 1e-9)
    assert len(dialler._targets) == MOST_HINTED
    dialler.try_reaching([ADDRESS])
    assert dialler.addresses(OTHER) == (ADDRESS,)


def test_a_hint_that_works_is_kept_as_an_address() -> None:
    network, hint = Network(), f"/ip4/127.0.0.1/tcp/9/p2p/{OTHER}"
    network.up = {hint}
    dialler = Dialler(OWN, network.connect, lambda: network.here)
    dialler.want([ADDRESS])
    dialler.hint([hint])
    run(network, dialler, 10)
    assert dialler.addresses(OTHER) == (hint, ADDRESS)


def test_a_peer_behind_a_closed_port_comes_through_a_relay_and_is_called_on_rarely() -> None:
    network, through = Network(), []

    async def relay(peer: PeerId) -> bool:
        through.append(trio.current_time())
        return True

    dialler = Dialler(OWN, network.connect, lambda: network.here, relay)
    dialler.try_reaching([ADDRESS])

    async def open_port() -> None:
        await trio.sleep(7200)
        network.up = {ADDRESS}

    run(network, dialler, 7200 + 2 * LONGEST_RELAYED_DELAY, open_port)
    assert len(through) == len(network.tries) - 1
    assert through[0] == network.tries[0]
    gaps = [later - earlier for earlier, later in itertools.pairwise(network.tries)]
    assert LONGEST_RELAYED_DELAY / 2 < max(gaps) <= 1.5 * LONGEST_RELAYED_DELAY
    assert len(network.tries) < 60
    assert network.here == {OTHER}


def test_twelve_nodes_that_restart_at_once_make_no_storm() -> None:
    """After a power cut of ten minutes: each calls each a few times, not all at the same moments, and all are
    there soon after.
    """
    peers = [Identity.from_seed(bytes([50 + i]) * 32).peer_id for i in range(12)]
    dials: list[tuple[PeerId, PeerId, float]] = []
    here: dict[PeerId, set[PeerId]] = {peer: set() for peer in peers}
    up: set[PeerId] = set()

    def caller(own: PeerId) -> Callable[[str], Awaitable[PeerId]]:
        async def connect(address: str) -> PeerId:
            peer = peer_of(address)
            assert peer is not None
            dials.append((own, peer, trio.current_time()))
            await trio.sleep(0.02)
            if not {own, peer} <= up:
                raise NetworkError("refused", "none")
            here[own].add(peer)
            here[peer].add(own)
            return peer

        return connect

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for own in peers:
                dialler = Dialler(own, caller(own), here[own].copy)
                dialler.want(f"/ip4/127.0.0.1/tcp/4001/p2p/{peer}" for peer in peers)
                nursery.start_soon(dialler.run)
            await trio.sleep(600)
            dials.clear()
            up.update(peers)
            await trio.sleep(1.5 * LONGEST_DELAY + 1)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert all(len(known) == 11 for known in here.values())
    assert max(Counter((own, peer) for own, peer, _ in dials).values()) == 1
    assert len(dials) <= 12 * 11
    assert max(Counter(int(at) for *_, at in dials).values()) <= 30
