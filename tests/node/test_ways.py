"""The ways to find members, put together: what changes while they are looked for."""

import pytest
import trio
import trio.testing

from p2pfl.crypto.identity import Identity
from p2pfl.node.config import load_config
from p2pfl.node.finding.ways import Finding
from p2pfl.node.transport import kademlia

IDENTITY = Identity.from_seed(bytes(32))
FIRST, SECOND = (f"/ip4/127.0.0.1/tcp/{port}/p2p/{IDENTITY.peer_id}" for port in (1, 2))


class Alone:
    """A transport without a peer."""

    connected: frozenset[str] = frozenset()
    direct: frozenset[str] = frozenset()

    async def connect(self, address: str) -> None:
        raise AssertionError(address)


def test_the_rendezvous_can_change_begin_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    met: list[tuple[str, ...]] = []

    async def meet(_who: Identity, _id: bytes, at: tuple[str, ...], _own: object) -> tuple[list[str], int]:
        met.append(at)
        return [], len(at)

    monkeypatch.setattr(kademlia, "meet", meet)
    config = load_config(None, {}, {"rendezvous": FIRST})
    finding = Finding(
        config,
        IDENTITY,
        bytes(32),
        Alone(),  # type: ignore[arg-type]  # no peer is asked anything
        refused=lambda: (),
        expected=lambda: (),
        reached=lambda _peer: None,
        reported=lambda _report: None,
    )

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(finding.run, ())
            await trio.testing.wait_all_tasks_blocked()
            for places in ((SECOND,), (), (FIRST,)):
                finding.meet_at(places)
                await trio.testing.wait_all_tasks_blocked()
                assert finding.places == places
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock())
    assert met == [(FIRST,), (SECOND,), (FIRST,)]
