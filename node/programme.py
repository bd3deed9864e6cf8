"""What every round is for: a pure function of the round's number and of the released state.

    statistics   nothing released yet: the sum of every record's preprocessing statistics
    mixing       if one group cannot hold everybody: average these until all groups agree
    training     the manifest's number of rounds, in stretches of ``evaluation.every``
    evaluation   one round after every stretch; after the last one up to EVALUATION_TRIES
    vote         after every evaluation but the last, if the manifest lets the federation end early

So members with the same state agree without a word, and rounds are numbered alike whatever was lost: a
skipped round is not made up for, but for the last evaluation.

A vote takes one round if one group holds everybody, and then the sum of the ones for "end" over the members
in it is the result. Several groups first sum among themselves, and then average what they got until it has
settled, however many members there are. A member that missed the rounds so far goes on with its own vote.
What is held in the end is compared with END_ABOVE.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from p2pfl.gossip.manifest import Manifest
from p2pfl.node.released import Place
from p2pfl.node.storage.receipts import RoundOutcome

Stage = Literal["statistics", "mixing", "training", "evaluation", "vote"]

EVALUATION_TRIES: Final = 3
END_ABOVE: Final = 0.5 + 2.0**-10
"""The share of votes above which the federation ends: a majority of up to 256 members is more, half of them
less, and both by more than averaging leaves unsettled.
"""
_CONSENSUS = 1e-4  # of their size; the ring's grid is hardly finer for sums of record counts


def mixing_rounds(population: int, size: int) -> int:
    """Rounds of group averaging until the groups' statistics agree to one part in ten thousand.

    0 if one group holds everybody.

    A round of random groups contracts the variance by (n - k) / (k (n - 1)) (Moshpit SGD, Ryabinin
    et al. 2021).
    """
    if population < 2 * size:
        return 0
    contraction = (population - size) / (size * (population - 1))
    return math.ceil(math.log(_CONSENSUS**2) / math.log(contraction))


def most_mixing_rounds(size: int) -> int:
    """What :func:`mixing_rounds` is at most, whatever the population: the limit of many nodes."""
    return math.ceil(math.log(_CONSENSUS**2) / math.log(1 / size))


def vote_rounds(manifest: Manifest, population: int) -> int:
    """Rounds of a vote of ``population`` members: 0 if the manifest has none."""
    if not manifest.evaluation.ends_early:
        return 0
    size = manifest.groups.size
    return 1 if population < 2 * size else 1 + most_mixing_rounds(size)


@dataclass(frozen=True, slots=True)
class Programme:
    """The rounds of a federation whose statistics have been released.

    ``start``: the first training round, of ``rounds``. ``every``: training rounds between two evaluations.
    ``vote``: rounds of a vote, 0 if there is none.
    """

    start: int
    rounds: int
    every: int
    vote: int

    @classmethod
    def of(cls, manifest: Manifest, place: Place) -> "Programme":
        """As the manifest and what was settled with the statistics have it."""
        rounds = manifest.training.rounds
        return cls(place.training_start, rounds, manifest.evaluation.every or rounds, place.vote_rounds)

    @property
    def last_training(self) -> int:
        """The last training round."""
        return self.start + self.rounds - 1 + (self.rounds - 1) // self.every * (1 + self.vote)

    def stage(self, round: int) -> Stage | None:
        """What ``round``, one after the statistics, is for if nothing ended the federation before; None if
        the programme is over by then.
        """
        if round < self.start:
            return "mixing"
        if round > self.last_training:
            return "evaluation" if round <= self.last_training + EVALUATION_TRIES else None
        place = self._place(round)
        if place < self.every:
            return "training"
        return "evaluation" if place == self.every else "vote"

    def last_release(self, before: int) -> int:
        """The last round before ``before`` that releases a model or something else that all go on from; one
        before the first mixing round if there is none.
        """
        round = min(before - 1, self.last_training)
        return round - 1 if self.stage(round) == "evaluation" else round

    def first_of_vote(self, round: int) -> int:
        """The first round of the vote that ``round``, a round of one, is in."""
        return round - self._place(round) + self.every + 1

    def last_of_vote(self, round: int) -> int:
        """The last round of the vote that ``round``, a round of one, is in."""
        return self.first_of_vote(round) + self.vote - 1

    def training_before(self, round: int) -> int:
        """How many training rounds come before ``round``."""
        offset = min(max(round - self.start, 0), self.last_training - self.start + 1)
        stretches, place = divmod(offset, self._stretch)
        return stretches * self.every + min(place, self.every)

    @property
    def _stretch(self) -> int:
        return self.every + 1 + self.vote

    def _place(self, round: int) -> int:
        return (round - self.start) % self._stretch


def stage_of(manifest: Manifest, place: Place | None, round: int) -> Stage | None:
    """What ``round`` is for at a member whose last release is at ``place``; None if nothing is left to do.

    Knows nothing of whether an evaluation after the last training round has completed.
    """
    if place is None:
        return "statistics"
    programme = Programme.of(manifest, place)
    if voted_to_end(manifest, place) and round > programme.last_of_vote(place.round):
        return None
    return programme.stage(round)


def voted_to_end(manifest: Manifest, place: Place) -> bool:
    """Whether the release at ``place`` is one of a vote, and for the end."""
    return Programme.of(manifest, place).stage(place.round) == "vote" and place.votes > END_ABOVE


def in_programme(manifest: Manifest, place: Place) -> bool:
    """Whether a federation of ``manifest`` can have come to ``place``, with these votes."""
    most = most_mixing_rounds(manifest.groups.size)
    lengths = (1, 1 + most) if manifest.evaluation.ends_early else (0,)
    if not (1 <= place.training_start <= place.round + 1 + most and place.vote_rounds in lengths):
        return False
    stage = Programme.of(manifest, place).stage(place.round)
    votes = 0 <= place.votes <= 1 and (place.votes == 0 or stage == "vote")
    return votes and stage in ("mixing", "training", "vote")


def evaluated(manifest: Manifest, place: Place | None, outcomes: Iterable[RoundOutcome]) -> bool:
    """Whether an evaluation after the last training round is among ``outcomes``, and completed."""
    if place is None:
        return False
    last = Programme.of(manifest, place).last_training
    return any(one.stage == "evaluation" and one.completed and one.round > last for one in outcomes)
