"""A whole federation on the vectorised engine: who is there, who learns, who averages, how good it gets."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from p2pfl.gossip.declared import ManifestError
from p2pfl.gossip.manifest import ImageTask, Manifest, TabularTask
from p2pfl.gossip.own_spec import OutsideModel, OutsideTask, PluginModel, PluginTask
from p2pfl.gossip.thresholds import thresholds
from p2pfl.node.privacy import dimension, stage_plan
from p2pfl.node.training.images import scaled_pictures
from p2pfl.node.training.models import Model
from p2pfl.node.training.objectives import Classes, Number, Objective, objective
from p2pfl.node.training.preprocessing import Standardiser, statistics_of
from p2pfl.node.training.table import Table
from p2pfl.simulation.averaging import Averaging, Groups, Mixing, without
from p2pfl.simulation.batches import Records
from p2pfl.simulation.outcome import Outcome
from p2pfl.simulation.population import Population, Terms, shared_noise
from p2pfl.simulation.setting import Setting
from p2pfl.simulation.sources import Dealt
from p2pfl.simulation.stacks import stack
from p2pfl.topologies.topology import Topology

_LOOKED_AT = 64
"""Nodes whose own models are evaluated; with more, so many of them, evenly spaced."""


class VectorisedFederation:
    """``manifest`` (its noise computed) among the nodes of ``dealt``, who meet as ``topology`` says, with
    everything else as in ``setting``; one run of it, drawn from ``seed``.

    Raises ManifestError for a manifest with parts that are not simulated.
    """

    def __init__(
        self, manifest: Manifest, setting: Setting, dealt: Dealt, topology: Topology, seed: int
    ) -> None:
        require_simulated(manifest)
        if manifest.evaluation.ends_early:
            what = "nobody votes here: take engine 'exact', or leave [evaluation] out to see all rounds"
            raise ManifestError("evaluation", what)
        self._manifest, self._setting, self._topology = manifest, setting, topology
        self._device = _device(setting.device)
        self._rng = np.random.default_rng([seed, 2])
        self._goal: Objective = objective(manifest.task, manifest.model)
        self._count = len(dealt.train)
        self._attackers = self._rng.permutation(self._count)[: setting.attackers]
        statistics = self._statistics(dealt.train)
        inputs = [inputs_of(manifest, table, statistics) for table in dealt.train]
        labels = [self._labels(node, table) for node, table in enumerate(dealt.train)]
        features = manifest.task.features
        generator = torch.Generator(self._device).manual_seed(seed)
        start = Model(manifest.model, features, self._goal).initial(manifest.digest)
        self.population = Population(
            stack(manifest.model, features, self._goal),
            Records.of(list(zip(inputs, labels, strict=True)), self._device),
            torch.from_numpy(start).float(),
            generator,
        )
        self._terms = Terms.of(manifest, setting.sampling)
        self._test = inputs_of(manifest, dealt.test, statistics), dealt.test.labels
        self._fixed: Averaging | None = None
        self.round = 0

    def run(self) -> Iterator[Outcome]:
        """All rounds of training: an outcome before the first, every so many rounds, and after the last."""
        rounds, every = self._manifest.training.rounds, self._setting.evaluate_every
        yield self.outcome(1.0)
        for round in range(1, rounds + 1):
            attended = self.step()
            if round % every == 0 or round == rounds:
                yield self.outcome(attended)

    def step(self) -> float:
        """One round; the share of nodes that were there."""
        there = self._rng.random(self._count) >= self._setting.offline
        groups = self._met(there)
        learning = there if groups is None else np.isin(np.arange(self._count), np.concatenate([[], *groups]))
        if learning.any():
            self._learn(None if learning.all() else torch.from_numpy(learning).to(self._device))
            self._average(there, groups)
        self.round += 1
        return float(there.mean())

    def _learn(self, active: Tensor | None) -> None:
        before = self.population.parameters[self._attackers].clone() if len(self._attackers) else None
        self.population.train(self._terms, active)
        if before is not None:
            self._attack(before)

    def outcome(self, attended: float) -> Outcome:
        """How good the models are now."""
        honest = np.setdiff1d(np.arange(self._count), self._attackers)
        looked_at = honest[np.unique(np.linspace(0, len(honest) - 1, _LOOKED_AT).astype(np.int64))]
        inputs = self._on_device(self._test[0])
        each = [
            self._measured(self.population.outputs(inputs, torch.tensor([node], device=self._device))[0])[0]
            for node in looked_at.tolist()
        ]
        accuracy, loss = self._measured(self.population.mean_outputs(inputs))
        consensus = self.population.consensus_distance()
        return Outcome(self.round, accuracy, float(np.mean(each)), min(each), loss, consensus, attended)

    def _measured(self, outputs: Tensor) -> tuple[float, float]:
        correct, losses = self._goal.measured(outputs.double().cpu().numpy(), self._test[1])
        return float(correct.mean()), float(losses.mean())

    # -- who meets whom
    def _met(self, there: NDArray[np.bool_]) -> list[list[int]] | None:
        """The groups of this round, as far as those who are there are enough; None if there are no groups.

        Who is in none sits the round out, as a node does: what it learnt would be released without the noise
        of a group, so its model stays as it was.
        """
        if self._setting.averaging != "groups":
            return None
        assert self._topology.groups is not None
        position = {node: number for number, node in enumerate(self._topology.nodes)}
        drawn = [[position[node] for node in group] for group in self._topology.groups(self.round)]
        met = [[node for node in group if there[node]] for group in drawn]
        return [group for group in met if len(group) >= self._manifest.groups.minimum]

    def _average(self, there: NDArray[np.bool_], groups: list[list[int]] | None) -> None:
        """In groups with the noise that a group shares, or with neighbours."""
        if groups is None:
            if self._setting.averaging == "neighbours":
                self.population.average(self._mixing(there))
            return
        spec = self._manifest.groups
        if self._manifest.privacy.mode in ("distributed", "organisation"):
            deviations = np.zeros(self._count, np.float32)
            for group in groups:
                deviations[group] = shared_noise(self._manifest, thresholds(len(group), spec.colluders))
            self.population.add_noise(self._on_device(deviations))
        self.population.average(Groups.of(groups, self._count, self._device))

    def _mixing(self, there: NDArray[np.bool_]) -> Averaging:
        if there.all() and self._topology.period == 1:
            if self._fixed is None:
                self._fixed = self._weights(there)
            return self._fixed
        return self._weights(there)

    def _weights(self, there: NDArray[np.bool_]) -> Mixing:
        """Who is not there is heard by nobody, and hears nobody: the weight stays with the receiver."""
        weights = self._topology.weights(self.round, self._setting.mixing or None)
        return Mixing.of(weights if there.all() else without(weights, ~there), self._device)

    # -- attackers
    def _attack(self, before: Tensor) -> None:
        rows = self.population.parameters[self._attackers]
        update = rows - before
        if self._setting.attack == "sign_flip":
            self.population.parameters[self._attackers] = before - update
        elif self._setting.attack == "noise":
            drawn = torch.from_numpy(self._rng.standard_normal(update.shape)).to(update)
            length = update.norm(dim=1, keepdim=True) / drawn.norm(dim=1, keepdim=True)
            self.population.parameters[self._attackers] = before + drawn * length

    def _labels(self, node: int, table: Table) -> NDArray[Any]:
        labels = table.labels
        if node not in self._attackers or self._setting.attack != "labels":
            return labels
        if isinstance(self._goal, Number):
            return -labels
        classes = self._goal.count if isinstance(self._goal, Classes) else 2
        return (labels + 1) % classes if labels.ndim == 1 else labels

    # -- inputs
    def _statistics(self, tables: Sequence[Table]) -> NDArray[np.float64]:
        """What the first secure sum of everybody would give, its noise included."""
        task = self._manifest.task
        if not isinstance(task, TabularTask) or not self._manifest.numeric_columns:
            return np.ones(1)
        total = np.sum([statistics_of(task, table) for table in tables], axis=0)
        if self._manifest.privacy.mode == "none":
            return np.asarray(total, np.float64)
        plan = stage_plan(self._manifest, "statistics", dimension(self._manifest, "statistics"))
        noise = math.ldexp(plan.sigma(self._manifest.groups.thresholds), -plan.encoding.fraction_bits)
        members = self._manifest.groups.size
        if self._manifest.privacy.mode == "organisation":
            total = np.mean([statistics_of(task, table) / len(table) for table in tables], axis=0) * members
        else:
            total = total * members / len(tables)
        noised = total + self._rng.normal(size=len(total)) * noise * math.sqrt(members)
        return np.asarray(noised, np.float64)

    def _on_device(self, values: NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(values))
        return tensor.to(self._device, torch.float32 if tensor.is_floating_point() else torch.int64)


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise ManifestError("simulation.device", "no GPU is here that torch can use; take 'cpu' or 'auto'")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def require_simulated(manifest: Manifest) -> None:
    """Raises ManifestError for what only nodes can do."""
    task, model = manifest.task, manifest.model
    if isinstance(task, PluginTask | OutsideTask) or isinstance(model, PluginModel | OutsideModel):
        raise ManifestError(
            "task.kind", "code of one's own is not simulated; take a task and a model of p2pfl's"
        )
    for name, left_out in (("backbone", ""), ("private", ()), ("initial", "")):
        if getattr(model, name) != left_out:
            raise ManifestError(f"model.{name}", "is not simulated; leave it out")


def inputs_of(manifest: Manifest, table: Table, statistics: NDArray[np.float64]) -> NDArray[Any]:
    """What the model sees of ``table``."""
    task = manifest.task
    if isinstance(task, TabularTask):
        noised = manifest.privacy.mode != "none"
        return Standardiser.from_statistics(task, statistics, noised=noised).inputs(table)
    return scaled_pictures(table.features, task) if isinstance(task, ImageTask) else table.features
