"""The daemons' own learners in a simulation: how they are made, how they work together whatever brings about
their sums, and what is said of them in the end.

Two engines drive them: ``protocol``, whose sums the real machines compute (:mod:`.protocol_training`), and
``exact``, which adds up what they contribute (:mod:`.exact`). A node that missed rounds takes over what
others agree on, as daemons do.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from p2pfl.crypto.identity import PeerId
from p2pfl.crypto.randomness import RandomBytes, seeded_random
from p2pfl.gossip.declared import ManifestError
from p2pfl.gossip.events import Completed, Contribute, Course, EpochBegan, Prepared, Skipped
from p2pfl.gossip.manifest import Manifest
from p2pfl.node.accountant import Mechanism
from p2pfl.node.contribution import LazyContribution
from p2pfl.node.learner import Learner
from p2pfl.node.privacy import Budget
from p2pfl.node.programme import Programme
from p2pfl.node.released import MOST_ROUNDS, Released
from p2pfl.node.storage.receipts import RoundOutcome
from p2pfl.node.storage.store import Store
from p2pfl.node.training.models import Model
from p2pfl.node.training.objectives import objective
from p2pfl.node.training.table import Table
from p2pfl.node.training.trainer import Trainer
from p2pfl.simulation.outcome import Outcome
from p2pfl.simulation.setting import Setting
from p2pfl.simulation.sources import Dealt, taken
from p2pfl.simulation.vectorised import inputs_of

Floats = NDArray[np.float64]
_ADVERSE: Final = ("sign_flip", "noise")


class Remembered(Store):
    """What a learner keeps on disk, kept in memory: a simulated node's disk survives its crashes, too."""

    def __init__(self) -> None:
        self._kept: Released | None = None
        self._charges: list[Mechanism] = []
        self._last = -1

    def released(self) -> Released | None:
        """The last that was saved."""
        return self._kept

    @property
    def lacks_model(self) -> bool:
        """Never: there is no file."""
        return False

    def save_released(self, released: Released) -> None:
        """In the place of the one before."""
        self._kept = released

    def rounds(self) -> list[RoundOutcome]:
        """None: a simulated learner lives from the first round to the last."""
        return []

    def mechanisms(self) -> list[Mechanism]:
        """The ledger."""
        return list(self._charges)

    def charge(self, round: int, mechanism: Mechanism | None, recipients: Sequence[PeerId] = ()) -> None:
        """Write to the ledger."""
        self._last = max(self._last, round)
        self._charges += [] if mechanism is None else [mechanism]

    def last_contribution(self) -> int:
        """The round of it, −1 if there was none."""
        return self._last

    def record_round(self, outcome: RoundOutcome, course: Course | None = None, result: bytes = b"") -> None:
        """Not kept: the simulation counts rounds itself."""


class Adverse(Trainer):
    """Trains, and contributes something else."""

    def __init__(
        self, manifest: Manifest, train: Table, random: RandomBytes, attack: str, rng: np.random.Generator
    ) -> None:
        super().__init__(manifest, train, None, random)
        self._attack, self._rng = attack, rng

    def contribution(self, parameters: Floats, statistics: Floats, *, train: bool = True) -> Floats:
        """The model moved the other way, or in a random direction, as far as training moved it."""
        update = super().contribution(parameters, statistics, train=train) - parameters
        if self._attack == "sign_flip":
            return parameters - update
        drawn = self._rng.standard_normal(len(update))
        length = float(np.linalg.norm(update)) / float(np.linalg.norm(drawn))
        return parameters + drawn * length


def learner(manifest: Manifest, trainer: Trainer, random: RandomBytes) -> Learner:
    """One that begins, and remembers nothing once the simulation is over."""
    return Learner(manifest, trainer, Remembered(), Budget(manifest.privacy), random)


@dataclass(frozen=True, slots=True)
class Company:
    """The ``learners`` of an experiment by number, and which of them are ``attackers``."""

    learners: Sequence[Learner]
    attackers: frozenset[int]


def company(
    manifest: Manifest, setting: Setting, dealt: Dealt, seed: int, rng: np.random.Generator
) -> Company:
    """A learner for each part of ``dealt``, all its chance from ``seed`` and its number: the same in every
    engine that has learners. ``rng`` draws who attacks.

    Test records are dealt out, too, for the evaluations of the federation itself.
    """
    count = len(dealt.train)
    attackers = frozenset(rng.permutation(count)[: setting.attackers].tolist())
    learners = []
    for node, train in enumerate(dealt.train):
        random = seeded_random(b"%d/%d/learner" % (seed, node))
        if node in attackers:
            own = np.random.default_rng([seed, node, 6])
            trainer: Trainer = Adverse(manifest, train, random, setting.attack, own)
        else:
            share = np.arange(node, len(dealt.test), count)
            test = taken(dealt.test, share) if len(share) else None
            trainer = Trainer(manifest, train, test, random)
        learners.append(learner(manifest, trainer, random))
    return Company(learners, attackers)


def require_learners(setting: Setting) -> None:
    """Raises ManifestError for what only the vectorised engine does."""
    for field_, fits, what in (
        ("averaging", setting.averaging == "groups", "'groups'"),
        ("sampling", setting.sampling == "poisson", "'poisson'"),
        ("attack", not setting.attackers or setting.attack in _ADVERSE, "'sign_flip' or 'noise'"),
    ):
        if not fits:
            raise ManifestError(f"simulation.{field_}", f"must be {what} with engine {setting.engine!r}")


@dataclass(slots=True)
class Moment:
    """How things stood after a training round: the ``models`` of nodes that had one, when the last of them
    had it, and what each had sent by then, on average, where the engine knows.
    """

    models: dict[int, Floats] = field(default_factory=dict)
    attended: set[int] = field(default_factory=set)
    at: float | None = None
    sent: float | None = None


class Learning:
    """The work of ``learners``: they train; what they hold after each ``every``-th training round is noted,
    and after those that a vote may make the last.

    ``offline``: drawn for every node and round, whether it sits it out. ``sent``: bytes of a node so far, on
    average, of engines that know.
    """

    def __init__(
        self,
        manifest: Manifest,
        learners: Sequence[Learner],
        every: int = 1,
        offline: Callable[[], bool] = lambda: False,
    ) -> None:
        rounds = manifest.training.rounds
        stops = manifest.evaluation.every if manifest.evaluation.ends_early else rounds
        wanted = [
            round for round in range(1, rounds + 1) if 0 in (round % every, round % stops, rounds - round)
        ]
        self.learners, self.moments = learners, {round: Moment() for round in wanted}
        self.sent: Callable[[], float | None] = lambda: None
        self._manifest, self._offline = manifest, offline
        self._agreeing = max(2, manifest.groups.colluders + 1)

    def prepare(self, node: int, round: int) -> Prepared | None:
        """Train, unless it sits this round out."""
        learner = self.learners[node]
        if learner.behind(round):
            self._catch_up(learner, round)
        if self.over(node, round) or self._offline():
            return None
        return learner.prepare(round)

    def contribute(self, node: int, effect: Contribute) -> LazyContribution:
        """Encoded and noised as it is taken."""
        return self.learners[node].contribute(effect)

    def ended(self, node: int, end: Completed | Skipped, now: float | None) -> None:
        """Take over the sum."""
        learner = self.learners[node]
        if isinstance(end, Completed):
            learner.completed(end)
        else:
            learner.skipped(end)
        if end.stage != "training" or learner.released is None:
            return
        moment = self.moments.get(self._trained_rounds(learner.released, end.round))
        if moment is not None:
            moment.models[node] = learner.released.parameters
            moment.at, moment.sent = now, self.sent()
            if isinstance(end, Completed):
                moment.attended.add(node)

    def over(self, node: int, round: int) -> bool:
        """Whether it holds the model of the last training round, or can get no further."""
        learner = self.learners[node]
        return learner.trained or (learner.released is not None and learner.stage(round) is None)

    def epoch_began(self, node: int, effect: EpochBegan) -> None:
        """How many there are decides how long statistics are mixed."""
        self.learners[node].population = len(effect.roster)

    def finish(self) -> None:
        """Whoever still waits takes over the final model, as a daemon does once most others are done."""
        for learner in self.learners:
            if not learner.trained:
                self._catch_up(learner, MOST_ROUNDS)
        ends = [
            self._trained_rounds(each.released, each.released.round)
            for each in self.learners
            if each.released
        ]
        # A vote may have ended it: then nothing came of the rounds that were planned after it.
        last = max(ends) if any(learner.trained for learner in self.learners) else max(self.moments)
        self.moments = {round: moment for round, moment in self.moments.items() if round <= last}
        for node, learner in enumerate(self.learners):
            if learner.released is not None:
                self.moments[last].models[node] = learner.released.parameters

    def _trained_rounds(self, released: Released, round: int) -> int:
        """Training rounds up to ``round``."""
        return Programme.of(self._manifest, released.place).training_before(round + 1)

    def _catch_up(self, learner: Learner, before: int) -> None:
        """Take over the newest model that enough others hold."""
        held = [release for other in self.learners for release in other.recent if release.round < before]
        by_digest = {release.digest: release for release in held}
        counted = Counter(release.digest for release in held)
        agreed = [by_digest[name] for name, count in counted.items() if count >= self._agreeing]
        if agreed:
            learner.adopt(max(agreed, key=lambda release: (release.round, release.digest)))


def outcomes(manifest: Manifest, dealt: Dealt, learning: Learning, attackers: Set[int]) -> Iterator[Outcome]:
    """What the nodes held in the rounds that were noted, tested on the records for that.

    Raises ManifestError if no round was ever completed.
    """
    known = [learner.released for learner in learning.learners if learner.released is not None]
    if not known:
        what = "no round was ever completed: nothing was learnt"
        raise ManifestError("simulation.scenario" if learning.sent() else "simulation.offline", what)
    judge = Judge(manifest, dealt.test, known[0].statistics)
    models = dict.fromkeys(range(len(learning.learners)), judge.model.initial(manifest.digest))
    outcome = partial(_outcome, judge, attackers)
    clocked = any(moment.at is not None for moment in learning.moments.values())
    start = (0.0, 0.0) if clocked else (None, None)
    yield outcome(0, models, Moment({}, set(models), *start))
    for round, moment in sorted(learning.moments.items()):
        models |= moment.models
        yield outcome(round, models, moment)


class Judge:
    """Tests models on ``test``."""

    def __init__(self, manifest: Manifest, test: Table, statistics: Floats) -> None:
        self._goal, self._labels = objective(manifest.task, manifest.model), test.labels
        self.model = Model(manifest.model, manifest.task.features, self._goal)
        self._inputs = inputs_of(manifest, test, statistics)

    def __call__(self, parameters: Floats) -> tuple[float, float]:
        """Accuracy and loss."""
        correct, losses = self._goal.measured(self.model.outputs(parameters, self._inputs), self._labels)
        return float(correct.mean()), float(losses.mean())


def _outcome(
    judge: Judge, attackers: Set[int], round: int, models: Mapping[int, Floats], moment: Moment
) -> Outcome:
    stacked = np.stack([models[node] for node in sorted(models)])
    mean = stacked.mean(axis=0)
    accuracy, loss = judge(mean)
    distinct = {models[node].tobytes(): models[node] for node in sorted(models)}
    accuracies = {name: judge(model)[0] for name, model in distinct.items()}
    each = [accuracies[models[node].tobytes()] for node in sorted(models) if node not in attackers]
    return Outcome(
        round,
        accuracy,
        float(np.mean(each)),
        min(each),
        loss,
        float(((stacked - mean) ** 2).sum()) / len(stacked),
        len(moment.attended) / len(models),
        moment.at,
        None if moment.sent is None else int(moment.sent),
    )
