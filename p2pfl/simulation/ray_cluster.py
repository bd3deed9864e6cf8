"""A Ray cluster in the place of this machine's cores: the same runs elsewhere, and the same rows.

Runs and rows cross the cluster pickled, as Ray has it: whoever reaches its ports runs code on it. See
docs/decisions/021-ray.md.
"""

import logging
import os
import secrets
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import Any, Final

from p2pfl.node.errors import NetworkError, UsageError, reason_of
from p2pfl.simulation.runs import one_thread

REMEDY: Final = "pip install 'p2pfl-node[ray]'"
_HINT: Final = "see `ray status`, --ray-address and RAY_ADDRESS"
_PATIENCE: Final = 10.0
_OWN_MEMORY: Final = 1 << 27
"""Bytes of shared memory of a cluster on this machine alone: rows are small."""


@contextmanager
def cluster(address: str | None = None, count: int | None = None) -> Iterator[Executor]:
    """The cores of the cluster at ``address``, None: at RAY_ADDRESS, or else of one that is started for this
    on ``count`` cores of this machine, None: all.

    Raises UsageError if Ray is not installed, or told how many cores of a cluster that is there already, and
    NetworkError if there is none.
    """
    if find_spec("ray") is None:
        raise UsageError("sweeps on a cluster take Ray, which is not installed", REMEDY)
    import ray

    address = address or os.environ.get("RAY_ADDRESS")
    if address and count:
        raise UsageError(
            "--jobs is for cores of this machine; a cluster says itself how many it has", "leave it out"
        )
    if address:
        _require_reachable(address)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address:
            ray.init(address, **quiet)
        else:
            ray.init("local", num_cpus=count or len(os.sched_getaffinity(0)), **_alone(), **quiet)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        where = f"the Ray cluster {address} cannot be joined" if address else "Ray cannot be started"
        raise NetworkError(f"{where}: {str(error).splitlines()[0]}", _HINT) from None
    try:
        yield _Cluster()
    finally:
        ray.shutdown()  # ends what still runs


def _require_reachable(address: str) -> None:
    """Ray would try for many minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host:
        return  # "auto": Ray looks up an address itself
    try:
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
    except (OSError, ValueError, OverflowError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else "not host:port"
        raise NetworkError(f"the Ray cluster {address} cannot be reached: {reason}", _HINT) from None


def _alone() -> dict[str, Any]:
    """What a cluster that is started for one sweep keeps to itself."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # Ray would write one down, readable by all
    return {"include_dashboard": False, "object_store_memory": _OWN_MEMORY, "_node_ip_address": "127.0.0.1"}


class _Cluster(Executor):
    """Submits to the cluster that this process has joined; a core for each."""

    def __init__(self) -> None:
        import ray

        self._outcome = ray.remote(num_cpus=1)(_outcome)

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **named: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        elsewhere = self._outcome.remote(partial(work, *arguments, **named)).future()
        elsewhere.add_done_callback(partial(_hand_over, future))
        return future


def _outcome(work: Callable[[], Any]) -> tuple[Any, Exception | None]:
    """What ``work`` gives or raises: not raised, for Ray would wrap it."""
    one_thread()
    try:
        return work(), None
    except Exception as error:  # noqa: BLE001 - handed to whoever waits
        return None, error


def _hand_over(future: "Future[Any]", elsewhere: "Future[tuple[Any, Exception | None]]") -> None:
    """Let ``future`` be as ``elsewhere`` is, unless nobody waits for it any more."""
    if not future.set_running_or_notify_cancel():
        return
    lost = elsewhere.exception()
    result, error = (None, None) if lost else elsewhere.result()
    if lost:
        what = f"a run was lost on the cluster: {str(lost).splitlines()[0]}"
        error = NetworkError(what, "see `ray status`; run it again, and it goes on where it was")
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
