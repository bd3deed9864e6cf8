"""Log lines: one each, printable, whoever's words they quote."""

import json
import logging
import sys

import pytest
import trio

from p2pfl.crypto.identity import Identity
from p2pfl.gossip.errors import RemoteProtocolError
from p2pfl.logs import JsonFormatter, TextFormatter, start_logging
from p2pfl.node.monitoring.log_fields import about_round
from p2pfl.node.monitoring.repeats import MOST_ALIKE

EVIL = "peer said \x1b[2J\nerror forged line"


def record(message: str, *, failed: bool = False) -> logging.LogRecord:
    info = None
    if failed:
        try:
            raise ValueError("oops")
        except ValueError:
            info = sys.exc_info()
    made = logging.LogRecord("p2pfl.node.daemon", logging.WARNING, "file", 1, message, None, info)
    made.created = 0.0
    return made


def test_text_is_one_printable_line() -> None:
    line = TextFormatter().format(record(EVIL))
    assert line == "1970-01-01T00:00:00Z warning node.daemon: peer said  [2J error forged line"


@pytest.mark.parametrize("as_json", [False, True])
def test_one_peer_does_not_fill_the_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    opened: list[logging.Handler] = []
    monkeypatch.setattr(logging, "basicConfig", lambda **options: opened.extend(options["handlers"]))
    monkeypatch.setattr(logging.getLogger("p2pfl"), "level", logging.INFO)
    start_logging("info", as_json=as_json)
    for _ in range(100):
        made = record("connected to %s")
        made.args = (Identity.from_seed(bytes(32)).peer_id,)
        opened[0].handle(made)
    assert len(capsys.readouterr().err.splitlines()) == MOST_ALIKE


def test_json_is_one_object_a_line() -> None:
    line = JsonFormatter().format(record(EVIL))
    assert line.isprintable()
    assert json.loads(line) == {
        "time": "1970-01-01T00:00:00Z",
        "level": "warning",
        "logger": "p2pfl.node.daemon",
        "message": EVIL,
    }


def test_tracebacks_are_kept() -> None:
    assert "ValueError: oops" in TextFormatter().format(record("x", failed=True))
    assert "ValueError: oops" in json.loads(JsonFormatter().format(record("x", failed=True)))["traceback"]


PEER = Identity.from_seed(bytes(32)).peer_id


def fields(message: str, *arguments: object) -> dict[str, object]:
    made = logging.LogRecord("p2pfl.node", logging.INFO, "file", 1, message, arguments, None)
    line = json.loads(JsonFormatter().format(made))
    return {name: line[name] for name in ("peer", "round") if name in line}


def test_json_names_the_peer_that_a_line_is_about() -> None:
    assert fields("lost %s: %s", PEER, "nothing came") == {"peer": PEER}
    assert fields("%s", RemoteProtocolError(PEER, "lied")) == {"peer": PEER}
    assert fields("cannot reach %s", f"/ip4/192.0.2.1/tcp/1/p2p/{PEER}: refused") == {"peer": PEER}
    assert fields("round %d: dropped %s", 1, f"others, {PEER}") == {}
    assert fields("no argument") == {}


def test_json_names_the_round_that_a_task_and_its_threads_are_about() -> None:
    async def work() -> dict[str, object]:
        with about_round(7):
            return await trio.to_thread.run_sync(fields, "on a thread, of %s", PEER)

    assert trio.run(work) == {"peer": PEER, "round": 7}
    assert fields("after it") == {}
