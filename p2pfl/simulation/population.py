"""All nodes of a federation as the rows of one matrix: they train together, and are averaged together.

What is not simulated: encoding (float32 is coarser than the ring's grid), and the integers of the noise,
which is Gaussian here, of the same standard deviation (:mod:`p2pfl.simulation.noise`).
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from p2pfl.gossip.manifest import Manifest
from p2pfl.gossip.thresholds import Thresholds
from p2pfl.node.privacy import dimension, stage_plan
from p2pfl.simulation.averaging import Averaging
from p2pfl.simulation.batches import Records
from p2pfl.simulation.noise import Gaussian
from p2pfl.simulation.stacks import Batch, Stack

_TOGETHER = 3 << 17
"""Parameters that are worked on at a time on a CPU: a megabyte and a half. Fewer take more calls; many more
fall out of its cache within a step.
"""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a round of training does to one node's parameters.

    ``rate``: what a summed gradient is multiplied by, learning rate / expected batch. ``kept``: what weight
    decay leaves of the parameters at a step. ``pull``: how much of the way back to where the round began a
    step goes. ``momentum``: how much of the last change of a node's released model is added to what it
    contributes. ``record_clip``: L2 bound on a record's gradient, None without.
    ``step_noise``: standard deviation added to every parameter at every step. ``update_clip``: L2 bound on
    all that a round changes, None without. ``batch``: None for Poisson samples of rate ``sampling_rate``,
    else how many records a step draws.
    """

    steps: int
    rate: float
    kept: float
    sampling_rate: float
    record_clip: float | None = None
    step_noise: float = 0.0
    update_clip: float | None = None
    batch: int | None = None
    pull: float = 0.0
    momentum: float = 0.0

    @classmethod
    def of(cls, manifest: Manifest, sampling: Literal["poisson", "fixed"] = "poisson") -> "Terms":
        """What ``manifest`` says; ``fixed``: as many records a step as there are on average."""
        training, privacy = manifest.training, manifest.privacy
        rate = training.learning_rate / training.expected_batch
        return cls(
            steps=training.local_steps,
            rate=rate,
            kept=1 - training.learning_rate * training.weight_decay,
            sampling_rate=training.sampling_rate,
            record_clip=privacy.clip_norm if privacy.mode in ("distributed", "local") else None,
            step_noise=rate * privacy.clip_norm * privacy.noise_multiplier
            if privacy.mode == "local"
            else 0.0,
            update_clip=privacy.clip_norm if privacy.mode == "organisation" else None,
            batch=max(1, round(training.expected_batch)) if sampling == "fixed" else None,
            pull=training.learning_rate * training.proximal,
            momentum=training.momentum,
        )


def shared_noise(manifest: Manifest, group: Thresholds) -> float:
    """Standard deviation of what each member of ``group`` adds to every parameter that it contributes."""
    plan = stage_plan(manifest, "training", dimension(manifest, "training"))
    return math.ldexp(plan.sigma(group), -plan.encoding.fraction_bits)


class Population:
    """The nodes that hold ``records``, all starting from ``start`` (dimension,), float32.

    Args:
        generator: of the device that ``records`` are on.

    ``parameters`` (n, dimension) may be changed between calls; there is one more matrix of its shape inside.
    """

    def __init__(self, model: Stack, records: Records, start: Tensor, generator: torch.Generator) -> None:
        self._stack, self._records, self._generator = model, records, generator
        self._gaussian = Gaussian(generator)
        self.parameters = start.to(records.inputs.device, torch.float32).repeat(len(records.counts), 1)
        self._spare = torch.empty_like(self.parameters)
        self._before: Tensor | None = None
        together = max(1, _TOGETHER // model.dimension) if self.parameters.is_cpu else len(self.parameters)
        starts = range(0, len(self.parameters), together)
        self._blocks = [slice(at, at + together) for at in starts]

    @torch.no_grad()
    def train(self, terms: Terms, active: Tensor | None = None) -> None:
        """One round of local training. ``active``: bool (n,), who takes part; None: everybody."""
        for block in self._blocks:
            taking_part = None if active is None else active[block]
            ahead = self._ahead(block, taking_part) if terms.momentum else None
            self._train(block, terms, taking_part)
            if ahead is not None:
                self.parameters[block].add_(ahead, alpha=terms.momentum)

    def _ahead(self, block: slice, active: Tensor | None) -> Tensor:
        """How far the ``active`` nodes' models came in the last round that they took part in."""
        if self._before is None:
            self._before = self.parameters.clone()
        rows, before = self.parameters[block], self._before[block]
        ahead = rows - before
        if active is not None:
            ahead.mul_(active.unsqueeze(1))
        before.add_(ahead)
        return ahead

    def _train(self, block: slice, terms: Terms, active: Tensor | None) -> None:
        rows, spare = self.parameters[block], self._spare[block]
        start = rows.clone() if terms.update_clip is not None or terms.pull else None
        for _ in range(terms.steps):
            batch = self._batch(block, terms, active)
            # Both are from where the gradient is taken: x - rate g - (1 - kept) x - pull (x - start).
            if terms.kept != 1 or terms.pull:
                torch.mul(rows, terms.kept - 1 - terms.pull, out=spare)
                if start is not None:
                    spare.add_(start, alpha=terms.pull)
            self._stack.step(rows, batch, terms.rate, terms.record_clip)
            if terms.kept != 1 or terms.pull:
                _add(rows, spare, 1.0, active)
            if terms.step_noise:
                _add(rows, self._gaussian.fill(spare), terms.step_noise, active)
        if start is not None and terms.update_clip is not None:
            rows.sub_(start)
            norms = rows.norm(dim=1, keepdim=True).clamp_min_(torch.finfo(torch.float32).tiny)
            rows.mul_((terms.update_clip / norms).clamp_max_(1.0)).add_(start)

    def _batch(self, block: slice, terms: Terms, active: Tensor | None) -> Batch:
        records = self._records.of_nodes(block)
        if terms.batch is None:
            return records.poisson(terms.sampling_rate, self._generator, active)
        return records.fixed(terms.batch, self._generator, active)

    @torch.no_grad()
    def add_noise(self, deviations: Tensor) -> None:
        """Add noise of these standard deviations (n,) to the rows."""
        for block in self._blocks:
            noise = self._gaussian.fill(self._spare[block])
            self.parameters[block].addcmul_(noise, deviations[block].unsqueeze(1))

    @torch.no_grad()
    def average(self, averaging: Averaging) -> None:
        """Replace every row by its average."""
        averaged = averaging(self.parameters, self._spare)
        self.parameters, self._spare = averaged, self.parameters

    @torch.no_grad()
    def consensus_distance(self) -> float:
        """(1/n) Σ |x_i − x̄|²."""
        mean = self.parameters.mean(0)
        torch.sub(self.parameters, mean, out=self._spare)
        return float(self._spare.square_().sum(dtype=torch.float64)) / len(self.parameters)

    @torch.no_grad()
    def outputs(self, inputs: Tensor, nodes: Tensor) -> Tensor:
        """What the models of ``nodes`` give for ``inputs`` (m, …): (nodes, m) or (nodes, m, outputs)."""
        return self._stack.outputs(self.parameters[nodes], inputs)

    @torch.no_grad()
    def mean_outputs(self, inputs: Tensor) -> Tensor:
        """What the mean of all models gives for ``inputs``: (m,) or (m, outputs)."""
        return self._stack.outputs(self.parameters.mean(0, keepdim=True), inputs)[0]


def _add(rows: Tensor, values: Tensor, factor: float, active: Tensor | None) -> None:
    """Add ``factor`` times ``values``, which may be overwritten, to the ``active`` rows."""
    if active is not None:
        values.mul_(active.unsqueeze(1))
    rows.add_(values, alpha=factor)
