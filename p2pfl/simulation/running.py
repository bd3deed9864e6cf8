"""One run of an experiment: records dealt, a topology drawn, an engine started, rows written."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from p2pfl.gossip.declared import ManifestError
from p2pfl.gossip.manifest import Manifest, TaskSpec
from p2pfl.node.accountant import epsilon
from p2pfl.node.outlook import planned_mechanisms
from p2pfl.simulation import exact
from p2pfl.simulation.baseline import baseline
from p2pfl.simulation.experiment import Experiment
from p2pfl.simulation.outcome import Outcome
from p2pfl.simulation.protocol_training import trained
from p2pfl.simulation.setting import Setting
from p2pfl.simulation.sources import Dealt, Source, deal, load
from p2pfl.simulation.traffic import sent_bytes
from p2pfl.simulation.vectorised import VectorisedFederation
from p2pfl.topologies.grouped import grouped
from p2pfl.topologies.registry import topology
from p2pfl.topologies.topology import Topology

_ROUNDS: Final = 8
"""Rounds in which a graph that gives any groups gives one."""
Row = dict[str, object]
Engine = Callable[[Manifest, Setting, Dealt, Topology, int], Iterator[Outcome]]


def vectorised(
    manifest: Manifest, setting: Setting, dealt: Dealt, met: Topology, seed: int
) -> Iterator[Outcome]:
    """All nodes as rows of one matrix: see :mod:`.vectorised`."""
    return VectorisedFederation(manifest, setting, dealt, met, seed).run()


def protocol(
    manifest: Manifest, setting: Setting, dealt: Dealt, met: Topology, seed: int
) -> Iterator[Outcome]:
    """The nodes' own learners and machines on a virtual network: see :mod:`.protocol_training`."""
    return trained(manifest, setting, dealt, seed)


ENGINES: Final[Mapping[str, Engine]] = {
    "vectorised": vectorised,
    "exact": exact.trained,
    "protocol": protocol,
}


def run(experiment: Experiment, seed: int) -> Iterator[Row]:
    """The rows of one run: what is varied, the seed, and every outcome with the epsilon that a record has
    paid by then, the bytes that a node has sent, the accuracy of an answer that looks at nothing, and, if
    anything was, what the task left out of the data.

    Raises FieldError, PartitionError, TopologyError, ScheduleError or UserError for what cannot be run.
    """
    setting = experiment.setting
    if setting.scenario.endswith(".toml"):
        setting = replace(setting, scenario=str(experiment.base / setting.scenario))
    task = experiment.manifest.task
    source = _loaded(setting, task, experiment.base)
    dealt = deal(source, setting, task, seed)
    if setting.attackers >= (nodes := len(dealt.train)):
        raise ManifestError("simulation.attackers", f"must be fewer than the {nodes} nodes: one is honest")
    manifest = experiment.fitted(float(np.mean([len(table) for table in dealt.train])))
    met = meeting(manifest, setting, dealt, seed)
    sent = bytes_sent(manifest, setting, met)
    data = {"baseline": baseline(task, dealt), "left_out": source.left_out or None}
    told = {name: value for name, value in data.items() if value is not None}
    for outcome in ENGINES[setting.engine](manifest, setting, dealt, met, seed):
        cost = {"epsilon": spent(manifest, outcome.round), "bytes": round(sent * outcome.round)}
        known = {name: value for name, value in asdict(outcome).items() if value is not None}
        yield {**experiment.varied, "seed": seed, **known, **(cost | known), **told}


def meeting(manifest: Manifest, setting: Setting, dealt: Dealt, seed: int) -> Topology:
    """Who meets whom: the topology that ``setting`` or the manifest names, cut into groups if nodes average
    in groups.
    """
    drawn = graph(manifest, setting, dealt.names, seed)
    if setting.averaging != "groups":
        if manifest.privacy.mode in ("distributed", "organisation"):
            what = (
                f"must be 'groups' in mode {manifest.privacy.mode!r}, whose noise is only whole in their sums"
            )
            raise ManifestError("simulation.averaging", what)
        return drawn
    groups = manifest.groups
    met = grouped(drawn, size=groups.size, minimum=groups.minimum, schedule=groups.schedule, seed=seed)
    assert met.groups is not None
    if not any(map(met.groups, range(_ROUNDS))):
        what = f"no {groups.minimum} of these {len(met.nodes)} nodes make a group: nothing would be averaged"
        raise ManifestError("groups.minimum", f"{what}; take more nodes, or simulation.averaging = 'none'")
    return met


def graph(manifest: Manifest, setting: Setting, names: Sequence[str], seed: int) -> Topology:
    """Who may meet whom, groups or not."""
    name = setting.topology or manifest.groups.topology
    return topology(name, list(names), seed=seed, code=True, **_parameters(setting.topology_parameters))


def bytes_sent(manifest: Manifest, setting: Setting, met: Topology) -> float:
    """What a node sends in a round, on average: in a group what a secure sum takes, else its vector to each
    who hears it.
    """
    vector = manifest.model.parameters(manifest.task.features) * manifest.training.ring_bits // 8
    count = len(met.nodes)
    if met.groups is not None:
        return sum(len(group) * sent_bytes(len(group), vector) for group in met.groups(0)) / count
    return 0.0 if setting.averaging == "none" else vector * int(met.weights(0).off_diagonal.sum()) / count


@lru_cache(maxsize=4096)
def spent(manifest: Manifest, rounds: int) -> float | None:
    """Epsilon of a training record after so many rounds, every one attended; None in mode none."""
    mechanisms = planned_mechanisms(manifest)
    whole = manifest.training.rounds
    sofar = [
        replace(each, count=each.count * rounds // whole) if each.stage == "training" else each
        for each in mechanisms
        if each.stage != "evaluation" and (each.stage != "training" or rounds)
    ]
    return epsilon(sofar, manifest.privacy.delta).pld if mechanisms else None


@lru_cache(maxsize=8)
def _loaded(setting: Setting, task: TaskSpec, base: Path) -> Source:
    return load(setting, task, base)


def _parameters(texts: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (equals and name):
            raise ManifestError("simulation.topology_parameters", f"must be like 'degree=4', not {text!r}")
        found[name] = _number(value)
    return found


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text
