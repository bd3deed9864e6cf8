"""Keeps a peer that does the same over and over from filling the log."""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from p2pfl.node.monitoring.log_fields import fields_of

MOST_ALIKE = 5
"""Lines of one kind about one peer in PERIOD_SECONDS."""
PERIOD_SECONDS = 60.0
_MOST_KINDS = 4096


@dataclass(slots=True)
class _Period:
    began: float
    lines: int = 0
    left_out: int = 0


class FewAlike(logging.Filter):
    """Lets through few lines of one kind, as they stand in the code, about one peer in a minute; the first
    one after that says how many were left out. Debugging lines all pass: who asks for them wants everything.
    ``clock`` is in seconds and never runs back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()  # asked before the handler takes its own
        self._periods: OrderedDict[tuple[object, ...], _Period] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        peer = fields_of(record).get("peer")
        if peer is None or record.levelno < logging.INFO:
            return True
        with self._lock:
            left_out = self._left_out_before((peer, record.name, record.msg))
        if left_out is None:
            return False
        if left_out:
            record.msg = f"{record.msg}; {left_out} more like this were left out"
        return True

    def _left_out_before(self, kind: tuple[object, ...]) -> int | None:
        """None if the line is to be left out."""
        now = self._clock()
        period = self._periods.pop(kind, None) or _Period(now)
        before = 0
        if now - period.began >= PERIOD_SECONDS:
            before, period = period.left_out, _Period(now)
        self._periods[kind] = period
        if len(self._periods) > _MOST_KINDS:
            self._periods.popitem(last=False)
        if period.lines >= MOST_ALIKE:
            period.left_out += 1
            return None
        period.lines += 1
        return before
