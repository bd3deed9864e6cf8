"""Whoever does the same over and over does not fill the log."""

import logging
from collections.abc import Iterator

import pytest

from p2pfl.crypto.identity import Identity
from p2pfl.node.monitoring import repeats
from p2pfl.node.monitoring.repeats import MOST_ALIKE, PERIOD_SECONDS, FewAlike

ONE, OTHER = (Identity.from_seed(bytes([number]) * 32).peer_id for number in (1, 2))


class Shown(logging.Handler):
    """A log with the filter, and a clock that stands."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.lines: list[str] = []
        self.alike = FewAlike(lambda: self.now)
        self.addFilter(self.alike)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def shown() -> Iterator[Shown]:
    log, handler = logging.getLogger("p2pfl.test"), Shown()
    log.addHandler(handler)
    log.setLevel("INFO")
    yield handler
    log.removeHandler(handler)


def test_a_peer_that_comes_and_goes_over_and_over_is_told_of_a_few_times_a_minute(shown: Shown) -> None:
    log = logging.getLogger("p2pfl.test")
    for _ in range(100):
        log.info("connected to %s", ONE)
        log.info("lost %s: %s", ONE, "the peer closed")
    log.info("connected to %s", OTHER)
    assert len(shown.lines) == 2 * MOST_ALIKE + 1
    shown.now += PERIOD_SECONDS
    for _ in range(2):
        log.info("connected to %s", ONE)
    told = f"connected to {ONE}"
    assert shown.lines[-2:] == [f"{told}; {100 - MOST_ALIKE} more like this were left out", told]


def test_lines_about_nobody_and_debugging_lines_are_all_shown(shown: Shown) -> None:
    log = logging.getLogger("p2pfl.test")
    log.setLevel("DEBUG")
    for _ in range(100):
        log.info("round %d completed", 1)
        log.debug("to %s: %s", ONE, "pledge")
    assert len(shown.lines) == 200


def test_a_crowd_of_peers_costs_little_memory(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "_MOST_KINDS", 3)
    for number in range(1, 9):
        peer = Identity.from_seed(bytes([number]) * 32).peer_id
        logging.getLogger("p2pfl.test").info("refused peer %s", peer)
    assert len(shown.lines) == 8
    assert len(shown.alike._periods) == 3
