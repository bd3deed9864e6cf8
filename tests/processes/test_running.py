"""A real node as its operator and systemd see it: ready, watched, reloaded, stopped."""

import os
import signal
import socket
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest
from real_federation import Federation, Member, p2pfl, wait_until

TOKEN = "0123456789abcdef"


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """What systemd would hear."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield receiver


@pytest.fixture
def member(tmp_path: Path, told: socket.socket) -> Iterator[Member]:
    federation = Federation(tmp_path, 1, rounds=5)
    alone = federation.members[0]
    (alone.directory / "status.token").write_text(TOKEN)
    (alone.directory / "status.token").chmod(0o600)
    change(alone, '# token_file = "status.token"', 'token_file = "status.token"')
    federation.start(alone)
    yield alone
    federation.stop()


def change(member: Member, old: str, new: str) -> None:
    config = member.directory / "node.toml"
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))


def get(member: Member, path: str, token: str = "") -> tuple[int, str]:
    host, port = member.status["status_at"]
    connection = HTTPConnection(host, port, timeout=30)
    connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def leave_pipes(member: Member) -> None:
    """Where the running node looks for files: nobody writes to them."""
    statement, ticket = member.directory / "state/statements/zz.statement", member.directory / "ticket.txt"
    statement.parent.mkdir(exist_ok=True)
    ticket.unlink()
    for pipe in (statement, ticket):
        os.mkfifo(pipe)
    wait_until(statement.with_suffix(".refused").exists, 30, "the statement put aside")
    wait_until(lambda: f"{ticket}: cannot be read: it is a pipe" in member.log, 30, "the ticket refused")


def heard(receiver: socket.socket) -> list[bytes]:
    lines = []
    while True:
        try:
            lines += receiver.recv(1000).splitlines()
        except BlockingIOError:
            return lines


def test_it_is_ready_watched_reloaded_and_stopped(member: Member, told: socket.socket) -> None:
    config = member.directory / "node.toml"
    said: list[bytes] = []

    def is_said(line: bytes) -> bool:
        said.extend(heard(told))
        return line in said

    wait_until(lambda: is_said(b"READY=1"), 60, "ready")
    wait_until(lambda: get(member, "/ready") == (200, "waiting\n"), 60, "waiting for others")
    assert get(member, "/health") == (200, "ok\n")
    assert get(member, "/metrics")[0] == 401
    status, text = get(member, "/metrics", TOKEN)
    assert status == 200
    assert '\np2pfl_phase{phase="waiting"} 1.0\n' in text
    assert "\nprocess: " in p2pfl("status", "--config", config).stdout
    change(member, 'level = "info"', 'level = "debug"')
    change(member, "# threads = 2", "threads = 1")
    assert member.process is not None
    member.process.send_signal(signal.SIGUSR1)
    wait_until(lambda: "log.level reloaded" in member.log, 30, "reloaded")
    assert "limits.threads changed: that needs a restart" in member.log
    leave_pipes(member)
    assert get(member, "/health") == (200, "ok\n")
    member.process.send_signal(signal.SIGTERM)
    assert member.wait(15) == 0
    assert is_said(b"STOPPING=1")
    assert b"STATUS=starting, 0 members connected" in said
