"""What a log line is about, for logs that machines read: beside its words, the peer and the round."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from logging import LogRecord

_ROUND: ContextVar[int | None] = ContextVar("round", default=None)
_PEER = re.compile(r"(?:^|/p2p/)(12D3KooW[1-9A-HJ-NP-Za-km-z]{44})(?![1-9A-HJ-NP-Za-km-z])")


@contextmanager
def about_round(round: int) -> Iterator[None]:
    """What this task logs meanwhile, and the threads that it waits for, is about ``round``."""
    token = _ROUND.set(round)
    try:
        yield
    finally:
        _ROUND.reset(token)


def fields_of(record: LogRecord) -> dict[str, str | int]:
    """``peer`` and ``round`` of ``record``, as far as it is about one. To be called where it was logged.

    The peer is the first one among what the message quotes: an id, an address that ends in one, or an error
    about one.
    """
    fields: dict[str, str | int] = {}
    arguments = record.args if isinstance(record.args, tuple) else ()
    quoted = (_PEER.search(str(getattr(argument, "peer", argument))) for argument in arguments)
    match = next(filter(None, quoted), None)
    if match is not None:
        fields["peer"] = match[1]
    round = _ROUND.get()
    if round is not None:
        fields["round"] = round
    return fields
