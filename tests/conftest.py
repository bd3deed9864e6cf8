"""Hypothesis tries the same examples on every run, a slow machine is no failure, and no test hears another's
logs.
"""

import os

# Before NumPy is loaded: for products as small as those here its threads meet longer than they multiply.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import logging
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("deterministic", derandomize=True, deadline=None)
settings.load_profile("deterministic")


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """A command that a test runs in this process sets the level of what follows."""
    loggers = [logging.getLogger(), logging.getLogger("p2pfl")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
