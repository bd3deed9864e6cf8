"""What a node may use of its machine: threads to train with, and memory."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

from p2pfl.node.errors import ConfigError

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_REFUSALS = ("can't allocate memory", "can't start new thread")
"""What torch's allocator and Python's threads say in a RuntimeError."""


def limit_threads(count: int | None) -> None:
    """Let libraries that compute use so many threads; None: as many as they like. To be called before torch
    is imported: they look once.
    """
    if count is not None:
        os.environ.update(dict.fromkeys(_THREADS, str(count)))


def limit_memory(most: int | None) -> None:
    """Let this process ask for ``most`` bytes, libraries' code and shared files not counted; None: no limit.

    Raises ConfigError if it has asked for more already.
    """
    if most is not None and asked_for() > most:
        what = f"{most / 1e6:.0f} MB is less than the {asked_for() / 1e6:.0f} MB that the node has already"
        raise ConfigError("limits.memory", what, "give it more")
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = hard if most is None else most
    if hard != resource.RLIM_INFINITY and soft > hard:
        what = f"the system allows this process {hard / 1e6:.0f} MB (ulimit -d)"
        raise ConfigError("limits.memory", what, "give it less, or raise the system's limit")
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def asked_for() -> int:
    """Bytes of memory of its own that this process has asked for: what :func:`limit_memory` limits."""
    with open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[5])
    return pages * resource.getpagesize()


@contextmanager
def explaining_lack_of_memory(most: int | None) -> Iterator[None]:
    """Make a ConfigError of what Python, numpy and torch raise where :func:`limit_memory` refuses them."""
    try:
        yield
    except Exception as error:
        if most is None or not any(map(_lacks_memory, _leaves(error))):
            raise
        what = f"the node needs more than the {most / 1e6:.0f} MB that it may ask for"
        hint = "give it more, or train on smaller batches; what was committed is kept"
        raise ConfigError("limits.memory", what, hint) from error


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _lacks_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or any(refusal in str(error) for refusal in _REFUSALS)
