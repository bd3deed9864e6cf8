"""A protocol that takes nothing while something waits: it is timed, and pages and the log say so."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
import trio
import trio.testing

from p2pfl.crypto.identity import Identity
from p2pfl.node.config import load_config
from p2pfl.node.membership.admission import FederationAdmission
from p2pfl.node.monitoring.observer import Observer
from p2pfl.node.monitoring.status import Status
from p2pfl.node.monitoring.watchdog import STALLED_SECONDS, tell_of_standstill
from p2pfl.node.transport.network import PeerConnected, Transport
from p2pfl.node.transport.session import EventQueue
from p2pfl.node.transport.types import Traffic

PEER = Identity.from_seed(bytes(32)).peer_id
MET = PeerConnected(PEER, "")


def test_what_lies_in_the_queue_is_timed_once_its_reader_is_away() -> None:
    async def test() -> None:
        queue = EventQueue(9, 9)
        queue.put(MET)
        await trio.sleep(5)
        assert (queue.waiting, queue.standstill) == (1, 0), "nobody has begun to read"
        await queue.receive()
        await trio.sleep(5)
        assert (queue.waiting, queue.standstill) == (0, 0)
        queue.put(MET)
        assert queue.standstill == pytest.approx(5), "it still has the one before"
        await queue.receive()
        assert queue.standstill == 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(queue.receive)
            await trio.sleep(50)
            queue.put(MET)
            assert queue.standstill == 0, "it waits for just this"

    trio.run(test, clock=trio.testing.MockClock(autojump_threshold=0))


def test_the_log_says_so_once_and_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    lasted = 0.0

    async def test() -> None:
        nonlocal lasted
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tell_of_standstill, lambda: lasted, lambda: 7)
            for seconds in (STALLED_SECONDS, STALLED_SECONDS + 1, STALLED_SECONDS + 9, 0, 1):
                lasted = seconds
                await trio.sleep(5)
            nursery.cancel_scope.cancel()

    trio.run(test, clock=trio.testing.MockClock(autojump_threshold=0))
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    assert "has handled nothing for 31 s although 7 events wait" in caplog.messages[0]


@dataclass
class Stuck:
    """As much of a transport as the pages ask about."""

    standstill: float
    waiting: int = 3
    traffic: type[Traffic] = Traffic


@pytest.mark.parametrize(
    ("standstill", "answers"),
    [
        (STALLED_SECONDS, {"/health": b"200 OK: ok", "/ready": b"200 OK: waiting"}),
        (
            STALLED_SECONDS + 1,
            {
                "/health": b"503 Service Unavailable: stalled",
                "/ready": b"503 Service Unavailable: stalled",
            },
        ),
    ],
)
def test_a_stuck_protocol_is_not_healthy(
    tmp_path: Path, standstill: float, answers: Mapping[str, bytes]
) -> None:
    config = load_config(None, {}, {"data_train": "train.csv", "status_listen": "127.0.0.1:0"})
    status = Status(PEER, "f" * 64, phase="waiting")
    admission = FederationAdmission(bytes(32), PEER)
    observer = Observer(config, status, tmp_path, cast(Transport, Stuck(standstill)), admission)

    async def ask(path: str) -> bytes:
        host, port = status.status_at
        async with await trio.open_tcp_stream(str(host), int(port)) as stream:
            await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            answer = b"".join([part async for part in stream])
        return (
            answer.split(b" ", 1)[1].split(b"\r\n", 1)[0].strip()
            + b": "
            + answer.split(b"\r\n\r\n")[1].strip()
        )

    async def test() -> dict[str, bytes]:
        async with trio.open_nursery() as nursery:
            await nursery.start(observer.run)
            found = {path: await ask(path) for path in answers}
            nursery.cancel_scope.cancel()
        return found

    assert trio.run(test) == answers
