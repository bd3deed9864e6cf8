"""What systemd is told, over a real socket of each kind."""

import os
import socket
from pathlib import Path

import pytest
import trio
import trio.testing

from p2pfl.node.monitoring.notify import Notifier


def listening(address: str) -> socket.socket:
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind(address)
    receiver.settimeout(10)
    return receiver


def test_a_path_and_an_abstract_name_are_written_to(tmp_path: Path) -> None:
    abstract = f"p2pfl-test-{os.getpid()}"
    for name, address in (
        (str(tmp_path / "notify"), str(tmp_path / "notify")),
        (f"@{abstract}", f"\0{abstract}"),
    ):
        with listening(address) as receiver:
            notifier = Notifier({"NOTIFY_SOCKET": name})
            notifier.ready()
            notifier.stopping()
            assert [receiver.recv(100) for _ in range(2)] == [b"READY=1", b"STOPPING=1"]


def test_signs_of_life_come_three_times_as_often_as_asked_for(tmp_path: Path) -> None:
    async def live(notifier: Notifier) -> None:
        with trio.move_on_after(25):
            await notifier.keep_telling(lambda: "learning")

    with listening(str(tmp_path / "notify")) as receiver:
        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "30000000"}
        notifier = Notifier(environ)
        assert notifier.watchdog_seconds == 30
        trio.run(live, notifier, clock=trio.testing.MockClock(autojump_threshold=0))
        receiver.setblocking(False)
        assert [receiver.recv(100) for _ in range(3)] == [b"STATUS=learning\nWATCHDOG=1"] * 3
        with pytest.raises(BlockingIOError):
            receiver.recv(100)


def test_nobody_is_told_what_nobody_asked_for(tmp_path: Path) -> None:
    Notifier({}).ready()
    trio.run(Notifier({}).keep_telling, lambda: "learning")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()
    asked = {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "1000000"}
    assert Notifier({**asked, "WATCHDOG_PID": str(os.getpid())}).watchdog_seconds == 1
    assert Notifier({**asked, "WATCHDOG_PID": "1"}).watchdog_seconds is None
    assert Notifier({**asked, "WATCHDOG_USEC": "soon"}).watchdog_seconds is None
