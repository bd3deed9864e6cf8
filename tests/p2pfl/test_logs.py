"""Log lines: one each, printable, whoever's words they quote."""

import json
import logging
import sys

from p2pfl.logs import JsonFormatter, TextFormatter

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
