from collections.abc import Awaitable, Callable

import trio
import trio.testing

from p2pfl.crypto.identity import Identity, PeerId
from p2pfl.node.discovery import HEARSAY_TRIES, LONGEST_DELAY, MOST_HEARSAY, Dialler, peer_of
from p2pfl.node.errors import NetworkError

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
