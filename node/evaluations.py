"""What the federation has measured of itself so far, and what this node makes of it: a vote to end, or not.

Everything here is computed from sums that were released, so it costs no epsilon.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from p2pfl.gossip.manifest import Manifest
from p2pfl.node.errors import StorageError
from p2pfl.node.programme import Programme, evaluated, vote_rounds, voted_to_end
from p2pfl.node.released import Place
from p2pfl.node.storage.receipts import RoundOutcome
from p2pfl.node.training.metrics import Evaluation


@dataclass(frozen=True, slots=True)
class Measured:
    """A completed evaluation of ``round`` over the test records of ``members``; ``evaluation`` is None if it
    does not count.
    """

    round: int
    members: int
    evaluation: Evaluation | None

    def as_dict(self, manifest: Manifest) -> dict[str, float]:
        """For JSON: with no more than these two if it does not count."""
        return {"round": self.round, "members": self.members} | self.figures_of(manifest)

    def figures_of(self, manifest: Manifest) -> dict[str, float]:
        """What is known of the model, and as ``total`` how many records are in the sum, unless it is one of
        means, which does not say; empty if it does not count.
        """
        if self.evaluation is None:
            return {}
        found = self.evaluation.as_dict()
        if manifest.privacy.mode == "organisation":
            del found["total"]
        return found


def measured(manifest: Manifest, outcomes: Iterable[RoundOutcome]) -> list[Measured]:
    """The evaluations among ``outcomes``, oldest first. Raises StorageError if they are of another task."""
    return [
        Measured(outcome.round, len(outcome.survivors), _evaluation(manifest, outcome.evaluation))
        for outcome in outcomes
        if outcome.stage == "evaluation" and outcome.completed
    ]


def _evaluation(manifest: Manifest, sums: Sequence[float] | None) -> Evaluation | None:
    try:
        return None if sums is None else Evaluation.of(manifest, sums)
    except ValueError as error:
        what = f"the journal holds an evaluation of another kind: {error}"
        raise StorageError(what, "use the version of p2pfl that wrote it") from error


def counts(manifest: Manifest, evaluation: Evaluation) -> bool:
    """Whether its sum says that enough records are in it. That enough members are, more than the colluders by
    two, is seen to by the thresholds: no sum of fewer is ever opened.
    """
    return evaluation.total >= manifest.evaluation.least_records


def reason_to_end(manifest: Manifest, history: Sequence[Measured], round: int) -> str:
    """Why a member that has seen ``history`` votes to end after the evaluation of ``round``; empty if it
    votes to go on, as it does if it has missed that evaluation.
    """
    spec = manifest.evaluation
    seen = [one for one in history if one.round <= round]
    if not seen or seen[-1].round < round or seen[-1].evaluation is None:
        return ""
    known = (one.evaluation for one in seen if one.evaluation is not None)
    return spec.reason_to_end([evaluation.figures[spec.metric] for evaluation in known])


def vote(manifest: Manifest, place: Place, history: Sequence[Measured], round: int, population: int) -> float:
    """What this member has to contribute to ``round``, one of a vote: its own vote, 1 to end and 0 to go on,
    or what it has by now of the others'. A federation that has outgrown one group since its statistics were
    settled goes on: its votes would not be averaged.
    """
    first = Programme.of(manifest, place).first_of_vote(round)
    if place.round >= first:
        return place.votes
    if vote_rounds(manifest, population) > place.vote_rounds:
        return 0.0
    return float(bool(reason_to_end(manifest, history, first - 1)))


def why_over(manifest: Manifest, place: Place | None, outcomes: Sequence[RoundOutcome]) -> str:
    """Why the programme is over for a member with this journal; empty if it is not, as far as that says."""
    return "; ".join(_reasons(manifest, place, outcomes))


def _reasons(manifest: Manifest, place: Place | None, outcomes: Sequence[RoundOutcome]) -> Iterator[str]:
    if place is None:
        return
    if voted_to_end(manifest, place):
        programme = Programme.of(manifest, place)
        first = programme.first_of_vote(place.round)
        done = programme.training_before(first)
        yield f"{place.votes:.0%} of the members voted to end after {done} training rounds"
        own = reason_to_end(manifest, measured(manifest, outcomes), first - 1)
        if own:
            yield own
    elif evaluated(manifest, place, outcomes):
        yield f"all {manifest.training.rounds} training rounds are over"
