"""Hypothesis tries the same examples on every run, a slow machine is no failure, no test hears another's
logs or keeps its handlers of signals, and a suite that nohup started does not hand that on to the nodes it
starts.
"""

import os

# Before NumPy is loaded: for products as small as those here its threads meet longer than they multiply.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import logging
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("deterministic", derandomize=True, deadline=None)
settings.load_profile("deterministic")
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """A command that a test runs in this process sets the level of what follows."""
    loggers = [logging.getLogger(), logging.getLogger("p2pfl")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    """`p2pfl node` is the process, and keeps the handlers that it sets; here it is a guest."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    kept = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, kept, strict=True):
        signal.signal(number, handler)
