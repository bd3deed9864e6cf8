"""One organisation's learning: what its records add to each round, and how good a model is on them.

A step is x - (lr / b) Σ clip(gradient, C) over a Poisson sample, b a public constant. So a member with more
records takes a larger step, a mean over members is a step of pooled SGD, and no private record count is ever
a denominator. Modes differ in where noise enters:

    distributed    one step a round; noise is added after encoding, by :func:`p2pfl.node.privacy.noise`
    local          several steps a round, each with all the noise of its own
    organisation   several plain steps a round; what they change together is clipped to C, and noised as in
                   distributed
    none           several steps a round, neither clipped nor noised

In mode organisation the whole organisation is what a record is elsewhere. Its statistics and evaluation are
means over its records: as large as one record's at most, whatever they hold and however many they are.
"""

import logging
import math
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from p2pfl.crypto.randomness import RandomBytes
from p2pfl.gossip.manifest import ImageTask, Manifest, OutsideTask, PluginTask, TabularTask
from p2pfl.gossip.model_layers import Parts
from p2pfl.node.errors import ManifestProblem
from p2pfl.node.libraries import import_torch
from p2pfl.node.privacy import Gradient, dimension, poisson_sample, step_noise
from p2pfl.node.storage.declared_file import Tensors
from p2pfl.node.training.drawn import drawn_layers
from p2pfl.node.training.images import scaled_pictures
from p2pfl.node.training.initial import start_values
from p2pfl.node.training.metrics import (
    Evaluation,
    TwoClasses,
    area_under_the_curve_of_scores,
    measures,
    summed,
)
from p2pfl.node.training.preprocessing import Standardiser, scaling, statistics_of
from p2pfl.node.training.table import Table

if TYPE_CHECKING:  # they bring torch along, which takes a second: imported when it is first needed
    from p2pfl.node.training.models import Model
    from p2pfl.node.training.objectives import Objective

log = logging.getLogger(__name__)

_BELOW = 1 - 2.0**-20
"""What an update may use of the clip norm: far more is left than rounding costs."""


class Trainer:
    """Learns on ``train`` as ``manifest`` says and evaluates on ``test``. Not thread safe.

    ``statistics`` in every method is the released sum of :meth:`statistics`, or a multiple of it such as its
    mean; ``parameters`` is float64 of shape (dimension("training"),): what members average. Private layers
    are beside it.
    """

    def __init__(
        self,
        manifest: Manifest,
        train: Table,
        test: Table | None,
        random: RandomBytes,
        backbone: Tensors | None = None,
        initial: Tensors | None = None,
    ) -> None:
        """``backbone``: what the manifest's model has frozen, if anything. Raises PrivacyError if the
        manifest's noise cannot be drawn, DataError if the backbone does not fit.
        """
        self._manifest = manifest
        self._train = train
        self._test = test
        self._random = random
        self._backbone = backbone
        self.private = np.empty(0)
        """What the private layers are, for as long as nobody sets them: float64 of shape (private,)."""
        if manifest.model.private:
            self.private = self.model.initial(manifest.digest)[self.model.private]
        self.learnt_private: NDArray[np.float64] | None = None
        """What they became in the last contribution; None if nothing was trained, or there are none."""
        self._step_noise = (
            step_noise(manifest, manifest.model.trained(manifest.task.features))
            if manifest.privacy.mode == "local"
            else None
        )
        self._noise = None if self._step_noise is None else self._step_noise.source(random)
        self._inputs: tuple[NDArray[np.float64], NDArray[np.generic]] | None = None
        self.round = -1
        """Which is being prepared: what a training loop outside is told."""
        self._initial = initial
        self.idle = ""
        """Why the last contribution was not trained, though it was to be; mostly empty."""
        self.left_out = 0
        """How often, in the last contribution, a record's gradient was not finite, and counted as zero."""
        if isinstance(manifest.task, PluginTask | OutsideTask):
            self.model  # noqa: B018 - what is wrong with the members' own shows before anything begins

    @cached_property
    def objective(self) -> "Objective":
        """What the model is trained for."""
        from p2pfl.node.training.objectives import objective

        return objective(self._manifest.task, self._manifest.model)

    @cached_property
    def model(self) -> "Model":
        """What is trained. Made when it is first needed: statistics need none."""
        import_torch()
        from p2pfl.node.training.models import Model, precision_for
        from p2pfl.node.training.own_models import own_model

        spec, features = self._manifest.model, self._manifest.task.features
        precision = precision_for(spec, features)
        return own_model(self._manifest) or Model(spec, features, self.objective, precision, self._backbone)

    @property
    def records(self) -> int:
        """How many there are to train on."""
        return len(self._train)

    @property
    def sampling_rate(self) -> float:
        """Probability with which one enters a step."""
        return self._manifest.training.sampling_rate

    def dimension(self, stage: str) -> int:
        """Length of the vector of ``stage``. Raises LocalProtocolError for a stage that is not this
        trainer's.
        """
        return dimension(self._manifest, stage)

    def initial_parameters(self, statistics: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """What training starts from: the same vector at every member with the same ``statistics``, which only
        count if the initial values are of a model with scales of its own.
        """
        model, digest = self._manifest.model, self._manifest.digest
        if self._initial is None and isinstance(model, Parts) and not (model.backbone or model.private):
            return drawn_layers(model.every_layer(self._manifest.task.features), digest)  # without torch
        drawn = self.model.initial(digest)
        if self._initial is not None:
            scaled = None if statistics is None else scaling(self._manifest, statistics)
            drawn = start_values(self.model.layout, drawn, self._initial, scaled)
            limit = self._manifest.training.parameter_limit
            np.clip(drawn, -limit, limit, out=drawn)
        return drawn[~self.model.private]

    def statistics(self) -> NDArray[np.float64]:
        """What the training records add to the sum of stage statistics; without numeric columns nothing is
        measured, and it is 1 whatever they are.
        """
        task = self._manifest.task
        if not isinstance(task, TabularTask) or not self._manifest.numeric_columns:
            return np.ones(1)
        sums = statistics_of(task, self._train)
        return sums / len(self._train) if self._by_organisation else sums

    def contribution(
        self, parameters: NDArray[np.float64], statistics: NDArray[np.float64], *, train: bool = True
    ) -> NDArray[np.float64]:
        """What this node adds to a training round: the model after its steps, or as it is unless ``train``.

        The model as it is, too, if training diverged under privacy: a node that stops tells everybody
        something of its records, and no noise covers it. Raises ManifestProblem instead in mode none.
        """
        self.left_out, self.learnt_private, self.idle = 0, None, ""
        if not train:
            return parameters.copy()
        start = self.whole(parameters)
        model = start.copy()
        spec = self._manifest.training
        kept = 1 - spec.learning_rate * spec.weight_decay
        back = spec.learning_rate * spec.proximal
        with np.errstate(over="ignore", invalid="ignore"):
            for _ in range(spec.local_steps):
                step = self._step(model, statistics)
                led = back * (model - start) if back else 0.0
                if kept != 1:
                    model *= kept
                model -= spec.learning_rate / spec.expected_batch * step
                model -= led
        if not np.isfinite(model).all():
            return self._diverged(parameters)
        if self._manifest.model.private:
            self.learnt_private, model = model[self.model.private], model[~self.model.private]
        return self._clipped_update(parameters, model) if self._by_organisation else model

    def _diverged(self, parameters: NDArray[np.float64]) -> NDArray[np.float64]:
        hint = "a lower training.learning_rate needs another federation"
        if self._manifest.privacy.mode == "none":
            raise ManifestProblem("training diverged", hint)
        self.idle = f"training diverged: {hint}"
        log.warning(
            "round %d: training diverged here; this node adds the model as it was, and its records taught"
            " nothing; %s",
            self.round,
            hint,
        )
        return parameters.copy()

    def _clipped_update(self, start: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.float64]:
        """``end``, or the point on the way there at a distance of clip_norm from ``start``."""
        update = end - start
        norm = float(np.linalg.norm(update))
        clip_norm = self._manifest.privacy.clip_norm * _BELOW
        return end if norm <= clip_norm else start + update * (clip_norm / norm)

    def mean(self, total: NDArray[np.float64], members: int) -> NDArray[np.float64]:
        """The model that follows from ``total``, the decoded sum of ``members`` contributions."""
        return total / members

    def evaluation(
        self, parameters: NDArray[np.float64], statistics: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """What the test records add to the sum of stage evaluation, see :mod:`.metrics`."""
        result = self.evaluate(parameters, statistics)
        sums = np.array(result.sums)
        return sums / result.total if self._by_organisation and result.total else sums

    def evaluate(
        self, parameters: NDArray[np.float64], statistics: NDArray[np.float64], table: Table | None = None
    ) -> Evaluation:
        """How the model does on ``table``, or on this node's test records; all zero without any. Not noised,
        and exact where the sums are not: not to be sent.
        """
        table = self._test if table is None else table
        task, sums = self._manifest.task, np.zeros(self.dimension("evaluation"))
        if table is None:
            return Evaluation.of(self._manifest, sums)
        ranked = isinstance(measures(task), TwoClasses)
        scores = np.empty(len(table) if ranked else 0)
        for start in range(0, len(table), self.model.block):
            part = slice(start, start + self.model.block)
            some = Table(table.features[part], table.labels[part])
            outputs = self._outputs(parameters, statistics, some)
            sums += summed(task, outputs, some.labels, *self.objective.measured(outputs, some.labels))
            if ranked:
                scores[part] = outputs
        exact = {"auc": area_under_the_curve_of_scores(scores, table.labels > 0)} if ranked else {}
        return Evaluation.of(self._manifest, sums, exact)

    def predict(
        self, parameters: NDArray[np.float64], statistics: NDArray[np.float64], table: Table
    ) -> NDArray[np.float64]:
        """For every record of ``table``, float64: the probability of being positive (n,), of each class
        (n, classes), or the number (n,); margins instead of probabilities from a model of kind svm.
        """
        return self.objective.predicted(self._outputs(parameters, statistics, table))

    def mean_gradient(
        self, vector: NDArray[np.float64], statistics: NDArray[np.float64], chosen: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """Of the ``chosen`` training records, one or more, at ``vector``, a :meth:`whole` one. Not noised and
        not clipped: not to be sent.
        """
        inputs, labels = self._train_inputs(statistics, chosen), self._train.labels[chosen]
        return self.model.summed_gradient(vector, inputs, labels, math.inf) / len(labels)

    def whole(self, parameters: NDArray[np.float64]) -> NDArray[np.float64]:
        """All that is trained, as the model has it: ``parameters``, with the private layers in place."""
        if not self._manifest.model.private:
            return parameters
        vector = np.empty(self.model.dimension)
        vector[self.model.private], vector[~self.model.private] = self.private, parameters
        return vector

    @property
    def _by_organisation(self) -> bool:
        return self._manifest.privacy.mode == "organisation"

    def _outputs(
        self, parameters: NDArray[np.float64], statistics: NDArray[np.float64], table: Table
    ) -> NDArray[np.float64]:
        return self.model.outputs(self.whole(parameters), self._inputs_of(table, statistics))

    def _inputs_of(self, table: Table, statistics: NDArray[np.float64]) -> NDArray[np.generic]:
        """What the model sees of ``table``."""
        task = self._manifest.task
        if isinstance(task, TabularTask):
            noised = self._manifest.privacy.mode != "none"
            return Standardiser.from_statistics(task, statistics, noised=noised).inputs(table)
        return scaled_pictures(table.features, task) if isinstance(task, ImageTask) else table.features

    def _step(self, parameters: NDArray[np.float64], statistics: NDArray[np.float64]) -> Gradient:
        """Sum of gradients over a fresh Poisson sample, clipped and noised as the mode asks."""
        privacy = self._manifest.privacy
        chosen = poisson_sample(len(self._train), self._manifest.training.sampling_rate, self._random)
        inputs, labels = self._train_inputs(statistics, chosen), self._train.labels[chosen]
        clip_norm = privacy.clip_norm if privacy.mode in ("distributed", "local") else math.inf
        if self._step_noise is None or self._noise is None:
            total: Gradient = self.model.summed_gradient(parameters, inputs, labels, clip_norm)
        else:
            clipped = self.model.clipped_sum(parameters, inputs, labels, clip_norm)
            total = self._step_noise.apply(clipped, self._noise)
        self.left_out += self.model.left_out
        return total

    def _train_inputs(
        self, statistics: NDArray[np.float64], chosen: NDArray[np.bool_]
    ) -> NDArray[np.generic]:
        """The inputs of the ``chosen`` training records; a table's are kept while the statistics stay."""
        if not isinstance(self._manifest.task, TabularTask):
            part = Table(self._train.features[chosen], self._train.labels[chosen])
            return self._inputs_of(part, statistics)
        if self._inputs is None or not np.array_equal(self._inputs[0], statistics):
            self._inputs = statistics.copy(), self._inputs_of(self._train, statistics)
        return self._inputs[1][chosen]
