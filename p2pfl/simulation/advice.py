"""What to agree on: a small search among the ways in which so many organisations can keep a promise.

Every way is tried by the vectorised engine, with the noise that its promise takes: first how long to learn
and on how much, in the largest group that there can be; then smaller groups, other schedules and topologies.
What is recommended sends least of those that are as accurate as the best, as far as that matters.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Final, Literal

from p2pfl.gossip.manifest import EvaluationSpec, GroupSpec, Manifest, ManifestError, PrivacySpec
from p2pfl.gossip.thresholds import Thresholds, thresholds
from p2pfl.node.errors import PrivacyError
from p2pfl.simulation.experiment import with_noise
from p2pfl.simulation.outcome import Outcome
from p2pfl.simulation.running import bytes_sent, meeting
from p2pfl.simulation.setting import Setting
from p2pfl.simulation.sources import Dealt
from p2pfl.simulation.vectorised import VectorisedFederation
from p2pfl.topologies.schedule import ScheduleError, grid_shape

LARGEST: Final = 16
"""What a manifest may say for groups.size: the schedule cuts groups of up to 31."""
RATES: Final = (0.1, 0.3, 1.0)
REACHES: Final = (10, 30, 90, 270)
"""How far a model may go: learning rate times rounds, in clip norms."""
AS_GOOD: Final = 0.005
"""Accuracy that is not worth sending more."""
CHEAP: Final = 1e6
"""Bytes of a node in all rounds that are not worth saving."""
_SKIPPED: Final = 0.1
"""Share of rounds that a group may miss for want of members, if there are others that miss fewer."""
_KEPT: Final = 5


@dataclass(frozen=True, slots=True)
class Asked:
    """What is known beforehand. ``offline``: probability that a node sits a round out. ``rounds``: the least
    and the most. ``seeds``: runs of whatever is compared in the end.
    """

    nodes: int
    epsilon: float
    delta: float
    colluders: int
    offline: float
    rounds: tuple[int, int]
    seeds: int

    @property
    def minimum(self) -> int:
        """The least members of a sum that hide one of them."""
        return max(3, self.colluders + 2)


class ImpossibleError(ValueError):
    """Nothing keeps what was asked for; the message says why, and what to change."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One way."""

    rounds: int
    sampling_rate: float
    learning_rate: float
    size: int
    schedule: Literal["random", "grid"] = "random"
    topology: str = "complete"
    mode: Literal["distributed", "local"] = "distributed"

    def among(self, nodes: int) -> str:
        """In words, among so many nodes."""
        groups = f"groups of {self.size}" if groups_of(nodes, self.size) > 1 else "one group of all"
        records, rate = f"{self.sampling_rate:.0%} of the records", f"learning rate {self.learning_rate:g}"
        parts = [groups, f"{self.rounds} rounds", records, rate]
        unusual = {self.schedule, self.topology, self.mode} - {"random", "complete", "distributed"}
        return ", ".join([*parts, *sorted(unusual)])


@dataclass(frozen=True, slots=True)
class Trial:
    """How ``choice`` went: ``accuracy`` of a node's own model, ``worst`` of the worst node's, one for each
    seed. ``sent``: bytes of a node, all rounds together.
    """

    choice: Choice
    accuracy: tuple[float, ...]
    worst: tuple[float, ...]
    sent: float

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return fmean(self.accuracy)

    @property
    def deviation(self) -> float:
        """Over the seeds; 0 of one."""
        return stdev(self.accuracy) if len(self.accuracy) > 1 else 0.0


@dataclass(frozen=True, slots=True)
class Advice:
    """``manifest``: with the terms of ``chosen`` and its noise. ``members``: of a group when all are there;
    ``skipped``: share of its rounds for which too few are. ``others``: what it beat. ``expected``: ``chosen``
    over as many other seeds, since those that it was chosen by flatter it.
    """

    manifest: Manifest
    members: int
    skipped: float
    chosen: Trial
    others: tuple[Trial, ...]
    expected: Trial

    @property
    def roster(self) -> Thresholds:
        """Of a group when all are there."""
        return thresholds(self.members, self.manifest.groups.colluders)

    def why(self, other: Trial) -> str:
        """What speaks against ``other``."""
        behind, most = self.chosen.mean - other.mean, max(self.chosen.sent, CHEAP)
        if behind > AS_GOOD:
            return f"less accurate by {behind:.3f}"
        if other.sent > most:
            times = other.sent / self.chosen.sent
            return f"no more accurate to speak of, and sends {times:.3g} times as much"
        return f"behind by {behind:.4f} on the same records" if behind > 0 else "within the spread"


def sizes(asked: Asked) -> list[int]:
    """Sizes of groups to try, the largest first: each cuts the nodes into another number of groups, few of
    which are ever too small for a sum.

    Raises ImpossibleError if there are none.
    """
    least, nodes = asked.minimum, asked.nodes
    against = "a colluder" if asked.colluders == 1 else f"{asked.colluders} colluders"
    if least > LARGEST:
        raise ImpossibleError(
            f"groups are cut to {LARGEST}, which is too few against {against}; assume fewer"
        )
    if nodes < least:
        raise ImpossibleError(
            f"it takes {least} members to hide one of them from {against}; there are {nodes}"
        )
    numbers = range(1, nodes // least + 1)
    found = [size for number in numbers if groups_of(nodes, size := min(LARGEST, nodes // number)) == number]
    often = {size: 1 - skipped(asked, nodes // groups_of(nodes, size)) for size in found}
    most = max(often.values())
    if most < 0.5:
        raise ImpossibleError(
            f"with {asked.offline:.0%} of {nodes} members offline, the {least} that hide one of them from"
            f" {against} are there in only {most:.0%} of the rounds; find more members, or assume fewer"
            " colluders"
        )
    there = [size for size, share in often.items() if share >= min(1 - _SKIPPED, most)]
    return there[:: math.ceil(len(there) / _KEPT)]


def groups_of(nodes: int, size: int) -> int:
    """How many groups of ``size`` and more the nodes are cut into."""
    return max(1, nodes // size)


def skipped(asked: Asked, members: int) -> float:
    """Probability that a group of so many has too few who are there."""
    there = 1 - asked.offline
    return sum(
        math.comb(members, some) * there**some * asked.offline ** (members - some)
        for some in range(asked.minimum)
    )


class Search:
    """The search. ``draft``: the task and the model; ``dealt``: the nodes' records for a seed.

    ``tell`` is called with what begins, ``step`` whenever something is done.
    """

    def __init__(
        self,
        asked: Asked,
        draft: Manifest,
        dealt: Callable[[int], Dealt],
        tell: Callable[[str], None],
        step: Callable[[], None],
    ) -> None:
        self._asked, self._draft, self._dealt = asked, draft, dealt
        self._tell, self._step = tell, step
        self._records = fmean(map(len, dealt(0).train))
        self._known: dict[tuple[Choice, int], tuple[Outcome, float]] = {}
        self._refused: PrivacyError | None = None
        self._sizes = sizes(asked)
        least, most = asked.rounds
        self._rounds = [least << power for power in range(32) if least << power <= most]

    @property
    def steps(self) -> int:
        """How many steps there will be, about."""
        learnt = len(self._rounds) * len(RATES)
        finalists = len(self._sizes) + len(self._rounds) + len(RATES)
        return (
            learnt * (1 + len(REACHES)) + 3 * _KEPT + finalists * (self._asked.seeds + 2) + self._asked.seeds
        )

    def run(self) -> Advice:
        """Raises PrivacyError if no noise keeps the promise, and what a simulation raises."""
        self._tell("computing noise, and how long to learn")
        coarse = self._best(self._lengths(), 1)
        self._tell("the best of them again")
        best = self._best([trial.choice for trial in coarse[:_KEPT]], 3)[0]
        self._tell("other groups, and what is left out")
        finalists = dict.fromkeys([best.choice, *self._neighbours(best.choice, coarse)])
        trials = self._best(list(finalists), self._asked.seeds)
        chosen = recommended(trials)
        others = tuple(trial for trial in trials if trial is not chosen)
        nodes = self._asked.nodes
        members = nodes // groups_of(nodes, chosen.choice.size)
        missed = skipped(self._asked, members)
        manifest, seeds = self.manifest(chosen.choice), self._asked.seeds
        expected = self._tried(chosen.choice, manifest, range(seeds, 2 * seeds))
        return Advice(manifest, members, missed, chosen, others, expected)

    def manifest(self, choice: Choice) -> Manifest:
        """What ``choice`` comes to: one step a round, and no votes."""
        asked, draft = self._asked, self._draft
        training = replace(
            draft.training,
            rounds=choice.rounds,
            learning_rate=choice.learning_rate,
            sampling_rate=choice.sampling_rate,
            expected_batch=_rounded(choice.sampling_rate * self._records),
            local_steps=1,
            proximal=0.0,
        )
        privacy = PrivacySpec(choice.mode, asked.epsilon, asked.delta, draft.privacy.clip_norm)
        plain = replace(draft, evaluation=EvaluationSpec(), groups=self._groups(choice))
        return with_noise(replace(plain, training=training, privacy=privacy))

    def _groups(self, choice: Choice) -> GroupSpec:
        asked = self._asked
        return GroupSpec(choice.topology, choice.schedule, choice.size, asked.minimum, asked.colluders)

    def _meets(self, choice: Choice) -> bool:
        """Whether its graph has groups that are large enough, whatever the seed."""
        manifest, setting = (
            replace(self._draft, groups=self._groups(choice)),
            Setting(nodes=self._asked.nodes),
        )
        try:
            for seed in range(2 * self._asked.seeds):
                meeting(manifest, setting, self._dealt(seed), seed)
        except ManifestError:
            return False
        return True

    def _lengths(self) -> list[Choice]:
        """How long, and on how much; in as large a group as can be, so that nothing else decides."""
        return [
            Choice(rounds, rate, _rounded(reach / rounds), self._sizes[0])
            for rounds in self._rounds
            for rate in RATES
            for reach in REACHES
        ]

    def _neighbours(self, best: Choice, coarse: Sequence[Trial]) -> Iterator[Choice]:
        """What else to compare in the end: other groups, and the best of other lengths and samples."""
        for size in self._sizes[1:]:
            rates = (best.learning_rate, _rounded(best.learning_rate / 2))
            yield self._best([replace(best, size=size, learning_rate=rate) for rate in rates], 2)[0].choice
        yield from self._grids(best)
        sparse = replace(best, size=self._sizes[-1], topology="random_regular")
        if groups_of(self._asked.nodes, sparse.size) > 1 and self._meets(sparse):
            yield sparse
        for other in ("rounds", "sampling_rate"):
            tried: dict[float, Choice] = {}
            for trial in coarse:
                tried.setdefault(getattr(trial.choice, other), trial.choice)
            yield from tried.values()
        yield replace(best, mode="local")

    def _grids(self, best: Choice) -> Iterator[Choice]:
        """The smallest groups whose lines fill a grid, if there is more than one line."""
        for size in reversed(self._sizes):
            try:
                if len(grid_shape(self._asked.nodes, size, self._asked.minimum)) > 1:
                    yield replace(best, size=size, schedule="grid")
                    return
            except ScheduleError:
                continue

    def _best(self, choices: Sequence[Choice], seeds: int) -> list[Trial]:
        """All that can be run, best first."""
        trials = [trial for choice in choices if (trial := self._trial(choice, seeds)) is not None]
        if not trials:
            assert self._refused is not None
            raise self._refused
        return sorted(trials, key=lambda trial: -trial.mean)

    def _trial(self, choice: Choice, seeds: int) -> Trial | None:
        """None if no noise keeps the promise, or there is no grid to draw it on."""
        try:
            manifest = self.manifest(choice)
        except PrivacyError as error:
            self._refused = error
            return None
        finally:
            self._step()
        return self._tried(choice, manifest, range(seeds))

    def _tried(self, choice: Choice, manifest: Manifest, seeds: Sequence[int]) -> Trial:
        found = [self._outcome(choice, manifest, seed) for seed in seeds]
        return Trial(
            choice,
            tuple(outcome.accuracy_mean for outcome, _ in found),
            tuple(outcome.accuracy_least for outcome, _ in found),
            found[0][1] * choice.rounds * (1 - self._asked.offline),
        )

    def _outcome(self, choice: Choice, manifest: Manifest, seed: int) -> tuple[Outcome, float]:
        if (choice, seed) not in self._known:
            dealt = self._dealt(seed)
            setting = Setting(
                nodes=self._asked.nodes, offline=self._asked.offline, evaluate_every=choice.rounds
            )
            met = meeting(manifest, setting, dealt, seed)
            *_, last = VectorisedFederation(manifest, setting, dealt, met, seed).run()
            self._known[choice, seed] = last, bytes_sent(manifest, setting, met)
            self._step()
        return self._known[choice, seed]


def recommended(trials: Sequence[Trial]) -> Trial:
    """Of those with shared noise that are behind the best, on the same records, by no more than AS_GOOD or a
    standard error: the one that sends least, and of those that send next to nothing, the most accurate.
    """
    shared = [trial for trial in trials if trial.choice.mode == "distributed"]
    best = max(shared, key=lambda trial: trial.mean)
    as_good = [trial for trial in shared if best.mean - trial.mean <= max(AS_GOOD, _error(trial, best))]
    return min(as_good, key=lambda trial: (max(trial.sent, CHEAP), -trial.mean))


def _error(trial: Trial, best: Trial) -> float:
    """Standard error of the difference of two, seed by seed."""
    gaps = [one - other for one, other in zip(best.accuracy, trial.accuracy, strict=True)]
    return stdev(gaps) / math.sqrt(len(gaps)) if len(gaps) > 1 else 0.0


def _rounded(value: float) -> float:
    """To two digits, as people write it."""
    return float(f"{value:.2g}")
