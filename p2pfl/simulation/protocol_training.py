"""The engine ``protocol`` of experiments: the nodes' own learners, whose sums the real machines compute.

Everything is what daemons do, to the last bit of the ring and its noise, on a virtual network: training,
encoding, noise, groups, secure sums. A node that missed rounds takes over what others agree on, as daemons
do, at no simulated time. Training takes as long as the scenario says, one second where none is named.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from p2pfl.crypto.identity import PeerId
from p2pfl.crypto.randomness import RandomBytes, seeded_random
from p2pfl.gossip.declared import ManifestError
from p2pfl.gossip.events import Completed, Contribute, Course, EpochBegan, Prepared, Skipped, Values
from p2pfl.gossip.manifest import Manifest
from p2pfl.node.accountant import Mechanism
from p2pfl.node.learner import Learner
from p2pfl.node.privacy import Budget
from p2pfl.node.receipts import RoundOutcome
from p2pfl.node.released import MOST_ROUNDS, Released
from p2pfl.node.store import Store
from p2pfl.node.training.models import Model
from p2pfl.node.training.objectives import objective
from p2pfl.node.training.table import Table
from p2pfl.node.training.trainer import Trainer
from p2pfl.simulation.outcome import Outcome
from p2pfl.simulation.protocol_engine import ProtocolFederation
from p2pfl.simulation.protocol_nodes import identities
from p2pfl.simulation.scenario import MOST_SECONDS, Fixed, Scenario, read
from p2pfl.simulation.setting import Setting
from p2pfl.simulation.sources import Dealt
from p2pfl.simulation.vectorised import inputs_of, require_simulated
from p2pfl.topologies.graphs import FAMILIES

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


@dataclass(slots=True)
class Moment:
    """How things stood after a training round: the ``models`` of nodes that had one, when the last of them
    had it, and what each had sent by then, on average.
    """

    models: dict[int, Floats] = field(default_factory=dict)
    attended: set[int] = field(default_factory=set)
    at: float = 0.0
    sent: float = 0.0


class Learning:
    """The nodes' work: ``learners`` train, and what they hold after the rounds ``wanted`` is noted."""

    def __init__(
        self,
        learners: Sequence[Learner],
        agreeing: int,
        wanted: Sequence[int],
        offline: Callable[[], bool],
    ) -> None:
        self.moments = {round: Moment() for round in wanted}
        self.sent: Callable[[], float] = float
        self._learners, self._agreeing, self._offline = learners, agreeing, offline

    def prepare(self, node: int, round: int) -> Prepared | None:
        """Train, unless it sits this round out."""
        learner = self._learners[node]
        if learner.behind(round):
            self._catch_up(learner, round)
        if self.over(node, round) or self._offline():
            return None
        return learner.prepare(round)

    def contribute(self, node: int, effect: Contribute) -> Values:
        """Encoded and noised as it is taken."""
        return self._learners[node].contribute(effect)

    def ended(self, node: int, end: Completed | Skipped, now: float) -> None:
        """Take over the sum."""
        learner = self._learners[node]
        if isinstance(end, Completed):
            learner.completed(end)
        else:
            learner.skipped(end)
        released = learner.released
        if released is None:
            return
        moment = self.moments.get(end.round - released.training_start + 1)
        if moment is not None and end.round >= released.training_start:
            moment.models[node] = released.parameters
            moment.at, moment.sent = now, self.sent()
            if isinstance(end, Completed):
                moment.attended.add(node)

    def over(self, node: int, round: int) -> bool:
        """Whether it holds the model of the last training round, or can get no further."""
        learner = self._learners[node]
        return learner.trained or (learner.released is not None and learner.stage(round) is None)

    def epoch_began(self, node: int, effect: EpochBegan) -> None:
        """How many there are decides how long statistics are mixed."""
        self._learners[node].population = len(effect.roster)

    def finish(self) -> None:
        """Whoever still waits takes over the final model, as a daemon does once most others are done."""
        moment = self.moments[max(self.moments)]
        for node, learner in enumerate(self._learners):
            if not learner.trained:
                self._catch_up(learner, MOST_ROUNDS)
            if learner.released is not None:
                moment.models[node] = learner.released.parameters

    def _catch_up(self, learner: Learner, before: int) -> None:
        """Take over the newest model that enough others hold."""
        held = [release for other in self._learners for release in other.recent if release.round < before]
        by_digest = {release.digest: release for release in held}
        counted = Counter(release.digest for release in held)
        agreed = [by_digest[name] for name, count in counted.items() if count >= self._agreeing]
        if agreed:
            learner.adopt(max(agreed, key=lambda release: (release.round, release.digest)))


def trained(manifest: Manifest, setting: Setting, dealt: Dealt, seed: int) -> Iterator[Outcome]:
    """One run of an experiment among the nodes of ``dealt``.

    Raises FieldError for what this engine does not do, or a scenario that is not there or does not fit.
    """
    _require(setting)
    require_simulated(manifest)
    count = len(dealt.train)
    manifest = replace(
        manifest,
        issuers=(),
        members=tuple(sorted(identity.peer_id for identity in identities(count))),
        groups=replace(manifest.groups, topology=setting.topology or manifest.groups.topology),
    )
    rng = np.random.default_rng([seed, 5])
    attackers = set(rng.permutation(count)[: setting.attackers].tolist())
    learners = [
        _learner(manifest, setting, dealt.train[node], (seed, node), attackers) for node in range(count)
    ]
    rounds, every = manifest.training.rounds, setting.evaluate_every
    wanted = [round for round in range(1, rounds + 1) if round % every == 0 or round == rounds]
    agreeing = max(2, manifest.groups.colluders + 1)
    learning = Learning(learners, agreeing, wanted, lambda: float(rng.random()) < setting.offline)
    scenario = _scenario(manifest, setting, seed)
    federation = ProtocolFederation(scenario, learning, manifest, learners[0].message_limits)
    learning.sent = lambda: sum(federation.net.bytes.values()) / count
    federation.run()
    learning.finish()
    yield from _outcomes(manifest, dealt, learning, learners, attackers)


def _require(setting: Setting) -> None:
    known = setting.topology in ("", *FAMILIES) and not setting.topology_parameters
    for field_, fits, what in (
        ("averaging", setting.averaging == "groups", "'groups'"),
        ("sampling", setting.sampling == "poisson", "'poisson'"),
        ("attack", not setting.attackers or setting.attack in _ADVERSE, "'sign_flip' or 'noise'"),
        ("topology", known, f"one of {', '.join(FAMILIES)}, without parameters"),
    ):
        if not fits:
            raise ManifestError(f"simulation.{field_}", f"must be {what} with engine 'protocol'")


def _learner(
    manifest: Manifest, setting: Setting, train: Table, place: tuple[int, int], attackers: set[int]
) -> Learner:
    random = seeded_random(b"%d/%d/learner" % place)
    trainer: Trainer = Trainer(manifest, train, None, random)
    if place[1] in attackers:
        trainer = Adverse(manifest, train, random, setting.attack, np.random.default_rng([*place, 6]))
    return Learner(manifest, trainer, Remembered(), Budget(manifest.privacy), random)


def _scenario(manifest: Manifest, setting: Setting, seed: int) -> Scenario:
    """The network and what happens on it: that of the scenario that the setting names, or good lines."""
    drawn = Scenario("an experiment", len(manifest.members), training=Fixed("fixed", 1.0))
    if setting.scenario:
        try:
            drawn = read(setting.scenario)
        except (OSError, UnicodeDecodeError) as error:
            raise ManifestError("simulation.scenario", f"cannot be read: {error}") from None
    timing = manifest.timing
    patience = 10 * (timing.gather_seconds + timing.round_seconds)
    seconds = min(MOST_SECONDS, patience + 2 * manifest.training.rounds * timing.round_seconds)
    return replace(
        drawn,
        nodes=len(manifest.members),
        rounds=manifest.training.rounds,
        seconds=seconds,
        guests=0,
        seed=seed,
        groups=manifest.groups,
        timing=timing,
    )


def _outcomes(
    manifest: Manifest, dealt: Dealt, learning: Learning, learners: Sequence[Learner], attackers: set[int]
) -> Iterator[Outcome]:
    """What the nodes held in the rounds that were wanted, tested on the records for that."""
    known = [learner.released for learner in learners if learner.released is not None]
    if not known:
        raise ManifestError("simulation.scenario", "no round was ever completed: nothing was learnt")
    judge = Judge(manifest, dealt.test, known[0].statistics)
    models = dict.fromkeys(range(len(learners)), judge.model.initial(manifest.digest))
    outcome = partial(_outcome, judge, attackers)
    yield outcome(0, models, Moment(attended=set(models)))
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
    judge: Judge,
    attackers: set[int],
    round: int,
    models: dict[int, Floats],
    moment: Moment,
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
        int(moment.sent),
    )
