"""The engine ``exact``: the nodes' own learners, whose contributions are added up where they are.

What a secure sum yields is the sum, in the ring, of what its survivors contributed. So the sum of the encoded
and noised rows is that of a federation to the last bit, without messages, masks and the time that they take.
What it leaves out is what happens on a network: nobody is lost in the middle of a round.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import Final

import numpy as np

from p2pfl.crypto.identity import PeerId
from p2pfl.gossip.events import Completed, Contribute, Prepared, Skipped
from p2pfl.gossip.manifest import Manifest
from p2pfl.gossip.thresholds import Thresholds, thresholds
from p2pfl.node.learner import Learner
from p2pfl.node.programme import Programme
from p2pfl.simulation.learners import Learning, company, outcomes, require_learners
from p2pfl.simulation.outcome import Outcome
from p2pfl.simulation.setting import Setting
from p2pfl.simulation.sources import Dealt
from p2pfl.simulation.vectorised import require_simulated
from p2pfl.topologies.topology import Topology

PATIENCE: Final = 100
"""Rounds after which those who have no statistics yet give up."""
Groups = Callable[[int], Sequence[Sequence[int]]]
"""The groups of a round, of nodes by number."""


class Exact:
    """A federation of the learners of ``learning``, who meet in ``groups``.

    ``rosters``: the thresholds of a group of so many who are there; by default the manifest's.
    """

    def __init__(
        self,
        manifest: Manifest,
        learning: Learning,
        groups: Groups,
        rosters: Callable[[int], Thresholds] | None = None,
    ) -> None:
        self._manifest, self._learning, self._groups = manifest, learning, groups
        self._rosters = rosters or (lambda size: thresholds(size, manifest.groups.colluders))
        self._least = manifest.groups.minimum if rosters is None else 1
        self._round = 0

    def run(self) -> None:
        """All rounds of the programme, and what comes after the last."""
        while self._goes_on():
            drawn = self._groups(self._round)
            nodes = sorted(node for group in drawn for node in group)
            prepared = {node: self._learning.prepare(node, self._round) for node in nodes}
            there = {node: found for node, found in prepared.items() if found is not None}
            for group in drawn:
                self._meet(group, there)
            self._round += 1
        self._learning.finish()

    def _goes_on(self) -> bool:
        learners = self._learning.learners
        released = [learner.released for learner in learners if learner.released is not None]
        if not released:
            return self._round < PATIENCE
        last = max(Programme.of(self._manifest, each.place).last_training for each in released)
        over = (self._learning.over(node, self._round) for node in range(len(learners)))
        return self._round <= last and not all(over)

    def _meet(self, group: Sequence[int], there: Mapping[int, Prepared]) -> None:
        """Add up what those of ``group`` contribute who agree on what is summed, if they are enough."""
        kinds = {node: self._kind(there[node], len(group)) for node in group if node in there}
        wanted = Counter(kinds.values()).most_common(1)
        met = [node for node, kind in kinds.items() if kind == wanted[0][0]]
        if len(met) < self._least:
            met = []
        for node in kinds.keys() - set(met):
            self._learning.ended(node, Skipped(self._round, there[node].stage, "too few", False), None)
        if met:
            self._add_up(met, there)

    def _kind(self, prepared: Prepared, size: int) -> tuple[object, ...]:
        """What members of one sum have in common; in mode none, if all are in one group, also the model."""
        one = self._manifest.privacy.mode == "none" and size == len(self._learning.learners)
        return prepared.stage, prepared.dim, prepared.state_digest if one else b""

    def _add_up(self, members: Sequence[int], there: Mapping[int, Prepared]) -> None:
        names = tuple(PeerId(f"n{node:03}") for node in members)
        roster, stage = self._rosters(len(members)), there[members[0]].stage
        ask = Contribute(self._round, 0, names, roster, sum(there[node].spent for node in members))
        rows = np.stack([self._learning.contribute(node, ask)[:] for node in members])
        total = rows.sum(axis=0, dtype=rows.dtype)
        for node in members:
            self._learning.ended(node, Completed(self._round, stage, total, names, names, roster), None)


def trained(
    manifest: Manifest, setting: Setting, dealt: Dealt, met: Topology, seed: int
) -> Iterator[Outcome]:
    """One run of an experiment among the nodes of ``dealt``, in the groups of ``met``.

    Raises ManifestError for what this engine does not do.
    """
    learning, attackers = learnt(manifest, setting, dealt, met, seed)
    yield from outcomes(manifest, dealt, learning, attackers)


def learnt(
    manifest: Manifest, setting: Setting, dealt: Dealt, met: Topology, seed: int
) -> tuple[Learning, Set[int]]:
    """The nodes at the end of :func:`trained`, and which of them attack."""
    require_learners(setting)
    require_simulated(manifest)
    rng = np.random.default_rng([seed, 5])
    them = company(manifest, setting, dealt, seed, rng)
    settle(them.learners)
    learning = Learning(
        manifest, them.learners, setting.evaluate_every, lambda: float(rng.random()) < setting.offline
    )
    Exact(manifest, learning, by_number(met)).run()
    return learning, them.attackers


def settle(learners: Sequence[Learner]) -> None:
    """Tell all how many they are: that decides how long statistics are mixed."""
    for learner in learners:
        learner.population = len(learners)


def by_number(met: Topology) -> Groups:
    """The groups of ``met`` with its nodes in their order for names."""
    number = {node: position for position, node in enumerate(met.nodes)}
    drawn = met.groups
    assert drawn is not None
    return lambda round: [[number[node] for node in group] for group in drawn(round)]
