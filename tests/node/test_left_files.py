"""What operators leave for a running node: taken when it is good, and never waited for."""

import os
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
from test_admission import GUEST, MANIFEST, Clock, ticket

from p2pfl.gossip.events import Event, Renewed
from p2pfl.node.config import load_config
from p2pfl.node.membership import left_files
from p2pfl.node.membership.admission import FederationAdmission
from p2pfl.node.membership.left_files import HANGING_SECONDS, LeftFiles, _Look
from p2pfl.node.membership.statements import FOLDER
from p2pfl.node.monitoring.status import Status


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a ticket, and looked at as often as can be."""
    for name in ("TICKET_SECONDS", "STATEMENT_SECONDS"):
        monkeypatch.setattr(left_files, name, 0)
    (tmp_path / "ticket.txt").write_text(ticket(GUEST))
    (tmp_path / FOLDER).mkdir()
    return tmp_path


def left_in(directory: Path, feed: Callable[[Event], Awaitable[None]]) -> LeftFiles:
    path = directory / "ticket.txt"
    config = load_config(None, {}, {"data_train": "train.csv", "ticket": str(path), "state": str(directory)})
    admission = FederationAdmission(MANIFEST.digest, GUEST.peer_id, path, MANIFEST, Clock())
    return LeftFiles(config, Status(GUEST.peer_id, MANIFEST.federation_id), admission, feed)


async def until(happened: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not happened():
            await trio.testing.wait_all_tasks_blocked(0.001)


def test_a_ticket_that_becomes_a_pipe_is_refused_and_the_next_one_taken(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        put, fed = trio.open_memory_channel[Event](1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(left_in(directory, put.send).watch_ticket)
            os.mkfifo(directory / "pipe")
            (directory / "pipe").rename(directory / "ticket.txt")
            await until(lambda: "it is a pipe" in caplog.text)
            (directory / "new").write_text(ticket(GUEST, days=30))
            (directory / "new").rename(directory / "ticket.txt")
            with trio.fail_after(10):
                assert await fed.receive() == Renewed(ticket(GUEST, days=30))
            nursery.cancel_scope.cancel()

    trio.run(test)
    assert "federation.ticket: " in caplog.text
    assert "this node goes on with the ticket that it had" in caplog.text


def test_a_statement_that_is_a_pipe_is_put_aside(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    statement = directory / FOLDER / "zz.statement"
    os.mkfifo(statement)

    async def test() -> None:
        put, _fed = trio.open_memory_channel[Event](0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(left_in(directory, put.send).take_statements, MANIFEST)
            await until(statement.with_suffix(".refused").exists)
            nursery.cancel_scope.cancel()

    trio.run(test)
    assert "it is a pipe, not a file that can be read; it is put aside" in caplog.text


def test_a_mount_that_hangs_is_said_once_and_keeps_nobody(caplog: pytest.LogCaptureFixture) -> None:
    answers = threading.Event()
    ask = partial(answers.wait, 10)

    async def test() -> None:
        look = _Look(Path("ticket.txt"))
        for _ in range(2):
            assert await look(ask) is None
        assert trio.current_time() - began == 2 * HANGING_SECONDS
        with trio.move_on_after(1) as ended:
            await look(ask)
        assert ended.cancelled_caught

    clock = trio.testing.MockClock(autojump_threshold=0)
    began = clock.current_time()
    try:
        trio.run(test, clock=clock)
    finally:
        answers.set()
    assert caplog.messages == ["ticket.txt: no answer for 30 s, its mount hangs: the node goes on without"]
