"""A federation that goes on and on: rounds by the thousand, with nodes that die, stand still and come back.

``make months`` runs ten thousand rounds, a month of virtual time, and prints what it comes to.
"""

import gc
import resource
import time
from types import FunctionType, ModuleType
from typing import Any, Final

import pytest

from p2pfl.gossip.events import Completed, Skipped
from p2pfl.gossip.manifest import TimingSpec
from p2pfl.gossip.wire import Limits
from p2pfl.simulation.protocol_engine import ProtocolFederation, Sums
from p2pfl.simulation.protocol_nodes import identities, manifest_of
from p2pfl.simulation.scenario import Churn, Partition, Pause, Scenario, Uniform

NODES: Final = 4
MOST_OBJECTS: Final = 1500
"""Of a machine: three hundred of its own, and at most eight hundred times that its neighbours took."""
_SHARED: Final = (type, ModuleType, FunctionType)  # not a machine's own


class Watched(Sums):
    """Sums that are checked and forgotten; every so many rounds of node 0 its machine is measured."""

    def __init__(self, scenario: Scenario, every: int) -> None:
        super().__init__(scenario, [identity.peer_id for identity in identities(scenario.nodes)])
        self.federation: ProtocolFederation | None = None
        self.objects: list[int] = []
        self._every = every

    def ended(self, node: int, end: Completed | Skipped, now: float) -> None:
        super().ended(node, end, now)
        self._ends = {key: kept for key, kept in self._ends.items() if key[0] >= end.round - 10}
        assert self.federation is not None
        if node == 0 and end.round % self._every == 0:
            machine = self.federation.nodes[0].participant
            self.objects.append(reachable(machine))


def reachable(start: object) -> int:
    """How many objects hang on this one."""
    seen: set[int] = set()
    found: list[Any] = [start]
    while found:
        each = found.pop()
        if id(each) not in seen and not isinstance(each, _SHARED):
            seen.add(id(each))
            found += gc.get_referents(each)
    return len(seen)


def months(rounds: int, training: float, outages_per_hour: float) -> Watched:
    """So many rounds; nodes are killed so often, and gone for a tenth of the time until the next time."""
    seconds = 3 * rounds * (training + 3)
    between = 3600 / outages_per_hour
    gone = Uniform("uniform", 0.02 * between, 0.18 * between)
    scenario = Scenario(
        "months",
        NODES,
        rounds=rounds,
        seconds=seconds,
        elements=16,
        training=Uniform("uniform", 0.9 * training, 1.1 * training),
        timing=TimingSpec(epoch_rounds=10),
        faults=(
            Churn("churn", 60.0, seconds, outages_per_hour, gone, nodes=(1, 2, 3)),  # 0 lives through it all
            Pause("pause", 100.0, 160.0, every=0.7 * between, over=seconds, nodes=(1,)),
            Partition("partition", seconds / 10, seconds / 10 + between / 4, nodes=(0, 1)),
        ),
    )
    watched = Watched(scenario, max(1, rounds // 40))
    watched.federation = ProtocolFederation(scenario, watched, manifest_of(scenario), Limits(16))
    watched.federation.run()
    return watched


def check(watched: Watched, rounds: int) -> None:
    federation = watched.federation
    assert federation is not None
    assert not watched.wrong
    assert not federation.evidence
    assert not federation.net.errors
    completed = {round for node in federation.nodes for round in node.completed}
    assert len(completed) > 0.7 * rounds  # outages end epochs early, and with them the rounds that were left
    assert max(completed) == rounds - 1
    assert len(watched.objects) >= 20
    assert max(watched.objects) < MOST_OBJECTS, "what a machine keeps grows with the rounds"


def test_what_a_machine_keeps_does_not_grow_with_the_rounds() -> None:
    check(months(120, training=8.0, outages_per_hour=12.0), 120)


@pytest.mark.slow
def test_a_month_of_ten_thousand_rounds() -> None:
    began, rounds = time.monotonic(), 10_000
    watched = months(rounds, training=260.0, outages_per_hour=0.3)
    check(watched, rounds)
    federation = watched.federation
    assert federation is not None
    lives = sum(node.lives for node in federation.nodes)
    print(
        f"\n{rounds} rounds, {federation.net.now / 86400:.1f} virtual days, {lives} starts of {NODES} nodes:",
        f"{time.monotonic() - began:.0f} s; objects of a machine {min(watched.objects)} to",
        f"{max(watched.objects)};",
        f"peak resident memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB",
    )
