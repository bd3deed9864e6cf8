"""What a manifest says about measuring the model on test records, and about ending when it is good enough.

An evaluation is a noised secure sum over test records; what a figure is called here is what it is called
wherever one is shown. Whether a member votes to end is a pure function of evaluations that were released, so
the vote tells nothing about anybody's records.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from p2pfl.gossip.declared import MAX_MAGNITUDE, ManifestError, require, require_range
from p2pfl.gossip.records import shown, suggest
from p2pfl.gossip.task_spec import ImageTask, TabularTask, TaskSpec

MAX_RECORDS = 1 << 28
_ERRORS = ("mean_absolute_error", "root_mean_squared_error")
_SHARES = ("accuracy", "balanced_accuracy", "auc")


def metrics_of(task: TaskSpec) -> tuple[str, ...]:
    """The names of the figures of an evaluation of ``task``, the one that matters most first."""
    match task:
        case TabularTask(is_regression=True):
            return (*_ERRORS, "r2")
        case TabularTask() if task.outputs == 1:
            return (*_SHARES, "mean_loss")
        case TabularTask() | ImageTask():
            return ("accuracy", "balanced_accuracy", "mean_loss")
        case _:
            return ("accuracy", "mean_loss")


@dataclass(frozen=True, slots=True)
class EvaluationSpec:
    """When the model is measured, and when that ends the federation.

    ``every``: training rounds between two evaluations; 0: one, after the last round. ``least_records``: an
    evaluation counts only if its noised sum says that at least so many records are in it. ``metric``: the
    figure that is decided by; a member votes to end when it has reached ``target`` (0: there is none), or has
    not improved by ``improvement`` within the last ``patience`` evaluations (0: it may take as long as it
    likes).
    """

    every: int = 0
    least_records: int = 0
    metric: str = ""
    target: float = 0.0
    patience: int = 0
    improvement: float = 0.0

    def __post_init__(self) -> None:
        require_range(self.every, "evaluation.every", 0, 1_000_000)
        require_range(self.least_records, "evaluation.least_records", 0, MAX_RECORDS)
        require_range(self.patience, "evaluation.patience", 0, 1_000_000)
        require_range(self.improvement, "evaluation.improvement", 0, MAX_MAGNITUDE)
        ends = self.ends_early
        require(ends or not self.metric, "evaluation.metric", "decides nothing without target or patience")
        require(bool(self.metric) or not ends, "evaluation.metric", "missing; what is to be decided by?")
        what = "means nothing without patience"
        require(self.patience > 0 or self.improvement == 0, "evaluation.improvement", what)
        what = "must be at least 1 where target or patience end the federation before its last round"
        require(self.every > 0 or not ends, "evaluation.every", what)

    @property
    def ends_early(self) -> bool:
        """Whether members vote after every evaluation but the last."""
        return self.target != 0 or self.patience > 0

    def between(self, rounds: int) -> int:
        """Evaluations before the one after the last of ``rounds`` training rounds."""
        return (rounds - 1) // self.every if self.every else 0

    def check(self, task: TaskSpec, rounds: int, *, by_organisation: bool) -> None:
        """Raises ManifestError, naming the field, if this contradicts the rest of a manifest.

        ``by_organisation``: members add means, so that a sum does not say how many records are in it.
        """
        what = f"must be below training.rounds, {rounds}; leave it out to evaluate only after the last one"
        require(self.every < rounds, "evaluation.every", what)
        what = 'mode "organisation" sums means, which do not say how many records there are'
        require(not (by_organisation and self.least_records), "evaluation.least_records", what)
        if not self.ends_early:
            return
        known = metrics_of(task)
        if self.metric not in known:
            what = f"unknown metric {shown(self.metric)}; {suggest(self.metric, known)}"
            raise ManifestError("evaluation.metric", what)
        self._check_target()
        votes = self.between(rounds)
        what = f"there are only {votes} evaluations before the last round, so it never decides anything"
        require(self.patience < votes or self.patience == 0, "evaluation.patience", what)

    def _check_target(self) -> None:
        if self.target == 0:
            return
        if self.metric in _SHARES:
            require_range(self.target, "evaluation.target", 0, 1, above=True)
        elif self.metric == "r2":
            require_range(self.target, "evaluation.target", -1, 1)
        else:
            require_range(self.target, "evaluation.target", 0, MAX_MAGNITUDE, above=True)

    def reason_to_end(self, figures: Sequence[float]) -> str:
        """Why a member that saw these ``figures`` of the metric, oldest first, votes to end; empty if it
        votes to go on. It does after a nan.
        """
        smaller = self.metric in (*_ERRORS, "mean_loss")
        gains = [-figure if smaller else figure for figure in figures]
        if not gains or gains[-1] != gains[-1]:
            return ""
        target = -self.target if smaller else self.target
        if self.target and gains[-1] >= target:
            return f"{self.metric} has reached {self.target:g}"
        known = [gain for gain in gains if gain == gain]
        before, recent = known[: -self.patience], known[-self.patience :]
        if not self.patience or not before:
            return ""
        gained = max(recent) - max(before)
        if gained > 0 and gained >= self.improvement:
            return ""
        least = f" by {self.improvement:g}" if self.improvement else ""
        return f"{self.metric} has not improved{least} in {self.patience} evaluations"
