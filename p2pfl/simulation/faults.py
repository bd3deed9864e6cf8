"""What goes wrong in a scenario: who is struck, and when."""

from collections.abc import Collection, Iterator
from functools import partial
from typing import Protocol

import numpy as np

from p2pfl.gossip.simulation import SimNetwork
from p2pfl.simulation.protocol_network import drawn
from p2pfl.simulation.scenario import (
    Byzantine,
    Churn,
    Clock,
    Crash,
    Fault,
    Partition,
    Pause,
    Scenario,
    Slow,
)


class Struck(Protocol):
    """What faults are done to."""

    @property
    def net(self) -> SimNetwork: ...
    def start(self, number: int) -> None: ...
    def kill(self, number: int) -> None: ...
    def pause(self, number: int, until: float) -> None: ...
    def separate(self, side: Collection[int]) -> None: ...
    def unite(self, side: Collection[int]) -> None: ...


class Faults:
    """The faults of ``scenario``, with everything that is random in them drawn from ``rng``.

    ``slower``: factors, ``ahead``: seconds, ``drift``: how much too fast, ``byzantine``: behaviours and since
    when, each by node. ``lost``: nodes that never come back from a crash.
    """

    def __init__(self, scenario: Scenario, rng: np.random.Generator) -> None:
        self.slower: dict[int, float] = {}
        self.ahead: dict[int, float] = {}
        self.drift: dict[int, float] = {}
        self.byzantine: dict[int, list[tuple[str, float]]] = {}
        self.lost: set[int] = set()
        self._rng, self._count = rng, scenario.nodes
        self._timed: list[tuple[Partition | Crash | Pause | Churn, list[int]]] = []
        for fault in scenario.faults:
            self._draw(fault, self._nodes(fault))

    def schedule(self, federation: Struck) -> None:
        """Let all of them happen in their time."""
        call = federation.net.call
        for fault, nodes in self._timed:
            match fault:
                case Partition():
                    call(fault.at, partial(federation.separate, nodes))
                    call(fault.until, partial(federation.unite, nodes))
                case Crash():
                    for node in nodes:
                        call(fault.at, partial(federation.kill, node))
                        if fault.until:
                            call(fault.until, partial(federation.start, node))
                case Pause():
                    for node in nodes:
                        for at, until in _pauses(fault):
                            call(at, partial(federation.pause, node, until))
                case Churn():
                    for node in nodes:
                        self._churn(federation, fault, node)

    def _churn(self, federation: Struck, fault: Churn, node: int) -> None:
        at = fault.at
        while (at := at + float(self._rng.exponential(3600 / fault.per_hour))) < fault.until:
            federation.net.call(at, partial(federation.kill, node))
            at += max(0.1, drawn(fault.gone, self._rng))
            federation.net.call(at, partial(federation.start, node))

    def _draw(self, fault: Fault, nodes: list[int]) -> None:
        match fault:
            case Slow():
                self.slower |= dict.fromkeys(nodes, fault.factor)
            case Clock():
                for node in nodes:
                    self.ahead[node] = float(self._rng.uniform(-fault.seconds, fault.seconds))
                    self.drift[node] = float(self._rng.uniform(-fault.drift, fault.drift))
            case Byzantine():
                for node in nodes:
                    self.byzantine.setdefault(node, []).append((fault.behaviour, fault.at))
            case Partition() | Crash() | Pause() | Churn():
                self._timed.append((fault, nodes))
                if isinstance(fault, Crash) and not fault.until:
                    self.lost.update(nodes)

    def _nodes(self, fault: Fault) -> list[int]:
        if fault.nodes:
            return sorted(fault.nodes)
        count = max(1, round(fault.share * self._count))
        return sorted(self._rng.choice(self._count, count, replace=False).tolist())


def _pauses(fault: Pause) -> Iterator[tuple[float, float]]:
    """When each begins and ends."""
    at = fault.at
    while True:
        yield at, at + fault.until - fault.at
        at += fault.every
        if not fault.every or at >= fault.over:
            return
