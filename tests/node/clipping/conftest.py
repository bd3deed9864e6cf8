"""Fixtures of the tests of clipping: one thread, and no warning that an earlier test has had already."""

from collections.abc import Iterator

import pytest
import torch

from p2pfl.node.training.clipping import gradient as clipping_gradient


@pytest.fixture(autouse=True)
def _nothing_said_yet() -> None:
    clipping_gradient._warn.cache_clear()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def quick(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Asserts that nothing had to be taken a record at a time."""
    yield
    assert not caplog.records
