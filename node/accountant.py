"""What a node has released about its records, and what that costs: (epsilon, delta) against an assumed
coalition.

The ledger is a list of :class:`Mechanism` entries; everything here is a pure function of such a list. The
arithmetic is dp-accounting's (:mod:`p2pfl.node.epsilons`): its PLD accountant gives the number that counts,
Rényi accounting stands beside it as a check: its RDP accountant, or the closed form that releases from all
records have.

One entry is a Gaussian mechanism on a Poisson sample of the records. What really leaves a node is a sum of
discrete Gaussians on a grid. With at least :data:`p2pfl.node.privacy.LEAST_SIGMA` = 10 grid steps of standard
deviation in every share, that sum is a discrete Gaussian to within 10^-400 and obeys the RDP bound of the
continuous one (Kairouz, Liu, Steinke 2021, Proposition 14); its PLD differs from the continuous one's by
O(1/sigma^2) per release, below what four digits show at the standard deviations used here
(tests/node/test_accountant.py measures it).

Two tables are neighbours if one has one record more. A record is in one table of one node: training records
decide what statistics and training rounds release, test records what evaluations release. So no single record
pays for both, and epsilon is the largest over the two, not the sum (parallel composition, McSherry 2009,
Theorem 4): no step sees a test record, so to it all other rounds are functions of the evaluations released
before them (which may have ended the federation); and to a training record an evaluation is a function of
released models. Somebody who is in both, or in two nodes' tables, pays the sum.

Where the unit of privacy is a whole organisation, neighbours differ in all that one of them adds, and it pays
for everything: statistics, training and evaluation add up.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Protocol

from p2pfl.gossip.manifest import MAX_NOISE_MULTIPLIER
from p2pfl.gossip.records import added, plain, read_record

Subject = Literal["train", "test", "organisation"]
Kind = Literal["distributed", "local", "organisation"]

STATISTICS_SHARE = 1 / 3
"""Part of epsilon that one statistics round may cost by itself; measured best on benchmarks/heart_disease.py,
flat around it. Where an organisation pays for its evaluations too, they may cost as much.
"""
EVALUATIONS = 2
"""Evaluation rounds after the last training round that the budget pays for: one, and one more should the
first be lost. Those before are not repeated.
"""
_MOST_RELEASES = 1 << 20
_MOST_BEFORE = 0.99
"""Part of epsilon that earlier federations may have spent: with less left, no noise is enough."""
_SUBJECTS: Mapping[bool, tuple[Subject, Subject]] = {
    False: ("train", "test"),
    True: ("organisation", "organisation"),
}
"""Who pays for training and who for evaluations, by whether an organisation is what is hidden."""
_TICKS = 10_000
"""Noise multipliers are multiples of one part in so many."""
_LEAST_TICKS = 100
"""Less noise hides nothing, and its privacy loss overflows; a very large delta would ask for it."""
_MOST_TICKS = round(MAX_NOISE_MULTIPLIER * _TICKS)


@dataclass(frozen=True, slots=True)
class Mechanism:
    """One entry of the ledger: ``count`` releases of a noised sum over a Poisson sample of this node's
    records.

    ``noise_multiplier`` z: standard deviation of the noise over the L2 sensitivity, against the assumed
    ``colluders``. ``sampling_rate``: probability that a record is in the sample; 1 means all are. ``kind``:
    "distributed" if the members' shares of noise make up z together, "local" if this node added all of it,
    "organisation" as "distributed", but a neighbour lacks all of this node's records. ``members``,
    ``minimum_survivors``: of the group whose secret sum carried it. ``spent``: how many of these members
    had no budget left, so that nobody counted on their noise. The group matters to the collusion ladder only.
    """

    stage: str
    subject: Subject
    kind: Kind
    noise_multiplier: float
    sampling_rate: float
    count: int
    members: int
    minimum_survivors: int
    colluders: int
    spent: int = added(0)

    def __post_init__(self) -> None:
        noised = 0 < self.noise_multiplier < math.inf and 0 < self.sampling_rate <= 1 and self.count > 0
        grouped = 0 <= self.colluders < self.counted <= self.minimum_survivors <= self.members
        if not (noised and grouped and (self.kind == "organisation") == (self.subject == "organisation")):
            raise ValueError("not a release that can be accounted for")

    @property
    def counted(self) -> int:
        """Shares of noise that any sum that is opened has at least, colluders' included."""
        return self.minimum_survivors - self.spent

    def against(self, colluders: int) -> float:
        """The noise multiplier that is left if ``colluders`` members of the group pool what they know.

        In a sum opened by at least u survivors, of whom s have spent their budgets and c' collude, u - s - c'
        have added a share of z / sqrt(u - s - c): it is z sqrt((u - s - c') / (u - s - c)); more than z is
        never claimed, nor less than this node's own share. That holds while colluders cannot get two sums of
        one round opened, 2u > k + c' (:mod:`p2pfl.gossip.thresholds`). Beyond, what they learn from several
        sums together may leave nothing but that share.
        """
        if self.kind == "local" or colluders <= self.colluders:
            return self.noise_multiplier
        opens_once = 2 * self.minimum_survivors > self.members + colluders
        honest = max(self.counted - colluders, 1) if opens_once else 1
        return self.noise_multiplier * math.sqrt(honest / (self.counted - self.colluders))

    def to_canonical(self) -> object:
        """Texts and integers for :func:`p2pfl.gossip.canonical.pack`; floats as their exact ``repr``."""
        return plain(self)

    @classmethod
    def from_canonical(cls, fields: object) -> "Mechanism":
        """The inverse of :meth:`to_canonical`. Raises ValueError for anything that it does not write."""
        return read_record(cls, fields, "", floats_are_text=True)


@dataclass(frozen=True, slots=True)
class Spent:
    """Epsilon at the asked delta, by two accountants: upper bounds both. ``pld``, the tighter, counts."""

    pld: float
    rdp: float


_Releases = tuple[tuple[float, float, int], ...]
"""Sorted (noise multiplier, sampling rate, count): all that epsilon depends on."""


def epsilon(mechanisms: Iterable[Mechanism], delta: float, colluders: int | None = None) -> Spent:
    """What one record has paid at most for ``mechanisms``, at ``delta``.

    Against ``colluders`` who pool what they know; None: as many as each entry assumes.
    """
    mechanisms = list(mechanisms)
    costs = [
        _epsilon(_releases(mechanisms, subject, colluders), delta)
        for subject in sorted({mechanism.subject for mechanism in mechanisms})
    ]
    return Spent(
        max((cost.pld for cost in costs), default=0.0), max((cost.rdp for cost in costs), default=0.0)
    )


def rdp_epsilon(mechanisms: Sequence[Mechanism], delta: float) -> float:
    """The bound of :func:`epsilon` by Rényi accounting alone: looser, and soon computed."""
    subjects = sorted({mechanism.subject for mechanism in mechanisms})
    return max((_rdp(_releases(mechanisms, one, None), delta) for one in subjects), default=0.0)


def ladder(mechanisms: Sequence[Mechanism], delta: float) -> list[tuple[int, Spent]]:
    """Epsilon against c, c+1, … colluders, up to everybody else in the largest group; empty without
    mechanisms.

    In mode local every rung is the same.
    """
    if not mechanisms:
        return []
    first = min(mechanism.colluders for mechanism in mechanisms)
    last = max(mechanism.members for mechanism in mechanisms) - 1
    return [
        (colluders, epsilon(mechanisms, delta, colluders)) for colluders in range(first, max(first, last) + 1)
    ]


def releases_within(
    mechanisms: Iterable[Mechanism],
    subject: Subject,
    noise_multiplier: float,
    sampling_rate: float,
    limit: float,
    delta: float,
) -> int:
    """How many more releases of this kind ``subject`` can make within ``limit``; a million if more."""
    spent = _releases(mechanisms, subject, None)

    def with_more(count: int) -> _Releases:
        return _merged([*spent, (noise_multiplier, sampling_rate, count)])

    def fits(count: int) -> bool:
        return _pld(with_more(count), delta) <= limit

    # From about the right number on: every epsilon takes some 0.1 s.
    low = high = _most(lambda count: _gaussian_limit(with_more(count), delta) <= limit, 0, _MOST_RELEASES + 1)
    stride = 1
    while low and not fits(low):
        low, high, stride = max(0, low - stride), low, 2 * stride
    if high == low:
        high, stride = low + 1, 1
        while high <= _MOST_RELEASES and fits(high):
            low, high, stride = high, min(high + stride, _MOST_RELEASES + 1), 2 * stride
    return _most(fits, low, high)


def surely_within(
    mechanisms: Iterable[Mechanism], subject: Subject, noise_multiplier: float, limit: float, delta: float
) -> bool:
    """Whether one more release from all records keeps ``subject`` within ``limit``, by a bound that takes no
    time, as if every record were in every sample. False says nothing.
    """
    return _unsampled((*_releases(mechanisms, subject, None), (noise_multiplier, 1.0, 1)), delta) <= limit


def _most(fits: Callable[[int], bool], low: int, high: int) -> int:
    """The largest number below ``high`` that ``fits``, if any above ``low`` does, else ``low``."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def evaluations_paid(between: int) -> int:
    """Evaluation rounds that a budget pays for, of which ``between`` come before the last training round."""
    return between + EVALUATIONS


@dataclass(frozen=True, slots=True)
class Multipliers:
    """Noise multipliers for the three kinds of round; ``statistics`` is 0 where nothing is measured."""

    training: float
    statistics: float
    evaluation: float


def calibrate(
    limit: float,
    delta: float,
    releases: int,
    sampling_rate: float,
    kind: Kind = "distributed",
    evaluations: int = EVALUATIONS,
    before: Sequence[Mechanism] = (),
    *,
    measured: bool = True,
) -> Multipliers:
    """The least noise, rounded up to four decimals, with which a whole run costs at most epsilon = ``limit``
    at ``delta``.

    Training records pay for one statistics round and for ``releases`` gradient sums (rounds in mode
    distributed, rounds times local steps in mode local) sampled at ``sampling_rate``; test records pay for
    ``evaluations``, see :func:`evaluations_paid`. The same multipliers serve both modes: z is the noise that
    the adversary faces, whoever adds it. Of ``kind`` organisation, one organisation pays for all of that.
    ``before``: what they have paid in earlier federations, which counts within ``limit``. Unless ``measured``
    the statistics are about no record, and cost nothing. Raises ValueError if ``before`` leaves hardly
    anything, or not even MAX_NOISE_MULTIPLIER is enough.
    """
    whole = kind == "organisation"
    train, test = (_releases(before, who, None) for who in _SUBJECTS[whole])
    spent = max(_pld(train, delta), _pld(test, delta))
    if spent > _MOST_BEFORE * limit:
        raise ValueError(f"{spent:.3f} of {limit:g} is spent before it begins")
    share = spent + STATISTICS_SHARE * (limit - spent)
    statistics = 0.0
    if measured:
        statistics = _least_multiplier(lambda z: _merged([*train, (z, 1.0, 1)]), share, delta)
    evaluation = _least_multiplier(
        lambda z: _merged([*test, (z, 1.0, evaluations)]), share if whole else limit, delta
    )
    besides = [*train, *([(statistics, 1.0, 1)] if measured else [])]
    besides += [(evaluation, 1.0, evaluations)] if whole else []
    training = _least_multiplier(lambda z: _merged([*besides, (z, sampling_rate, releases)]), limit, delta)
    return Multipliers(training, statistics, evaluation)


def _least_multiplier(releases: Callable[[float], _Releases], limit: float, delta: float) -> float:
    """The smallest multiple of 1 / _TICKS, from _LEAST_TICKS on, whose ``releases`` cost at most ``limit``.

    By false position on the logarithms, in which epsilon falls almost along a line (Illinois rule): a PLD
    takes up to a second.
    """

    def excess(ticks: int) -> float:
        """Positive if too little noise."""
        cost = _pld(releases(ticks / _TICKS), delta)
        return math.log(min(max(cost / limit, 1e-9), 1e9))

    low, high, above, below = _bracket(excess, _guessed_ticks(releases, limit, delta))
    last = 0
    while high - low > 1:
        guess = low * (high / low) ** (above / (above - below))
        middle = min(max(round(guess), low + 1), high - 1)
        found = excess(middle)
        if found > 0:
            low, above = middle, found
            below /= 2 if last > 0 else 1
        else:
            high, below = middle, found
            above /= 2 if last < 0 else 1
        last = 1 if found > 0 else -1
    return high / _TICKS


def _bracket(excess: Callable[[int], float], start: int) -> tuple[int, int, float, float]:
    """Ticks of too little and of enough noise, not far apart around ``start``, and their excesses.

    Raises ValueError if none is enough.
    """
    low = high = start
    above = below = excess(start)
    stride = 9 / 8
    while above <= 0 and low > _LEAST_TICKS:
        high, below = low, above
        low, stride = max(_LEAST_TICKS, min(low - 1, int(low / stride))), stride**2
        above = excess(low)
    if above <= 0:
        return low - 1, low, 1.0, above
    while below > 0:
        if high == _MOST_TICKS:
            raise ValueError("no usable noise meets this epsilon and delta")
        low, above = high, below
        high, stride = min(max(high + 1, int(high * stride)), _MOST_TICKS), stride**2
        below = excess(high)
    return low, high, above, below


def _guessed_ticks(releases: Callable[[float], _Releases], limit: float, delta: float) -> int:
    """About the ticks that :func:`_least_multiplier` finds, by bisection of the Gaussian limit."""
    low, high = 0.0, 1.0
    while _gaussian_limit(releases(high), delta) > limit and high < 1 << 40:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        fits = _gaussian_limit(releases(middle), delta) <= limit
        low, high = (low, middle) if fits else (middle, high)
    return min(max(_LEAST_TICKS, round(high * _TICKS)), _MOST_TICKS)


def _releases(mechanisms: Iterable[Mechanism], subject: Subject, colluders: int | None) -> _Releases:
    return _merged(
        (
            mechanism.against(mechanism.colluders if colluders is None else colluders),
            mechanism.sampling_rate,
            mechanism.count,
        )
        for mechanism in mechanisms
        if mechanism.subject == subject
    )


def _merged(releases: Iterable[tuple[float, float, int]]) -> _Releases:
    counts: dict[tuple[float, float], int] = {}
    for multiplier, rate, count in releases:
        counts[multiplier, rate] = counts.get((multiplier, rate), 0) + count
    return tuple(sorted((multiplier, rate, count) for (multiplier, rate), count in counts.items() if count))


def _epsilon(releases: _Releases, delta: float) -> Spent:
    return Spent(_pld(releases, delta), _rdp(releases, delta))


class Arithmetic(Protocol):
    """Who computes: :mod:`p2pfl.node.epsilons`, or a process that does."""

    def pld(self, releases: _Releases, delta: float, interval: float) -> float:
        """Epsilon of ``releases`` by their privacy loss, on a grid of ``interval``."""

    def rdp(self, releases: _Releases, delta: float) -> float:
        """Epsilon of ``releases`` by Rényi divergences."""


_elsewhere: Arithmetic | None = None


@contextmanager
def computed_by(arithmetic: Arithmetic) -> Iterator[None]:
    """Have ``arithmetic`` compute what is not known yet meanwhile, and not this process, which it takes much
    memory from.
    """
    global _elsewhere
    _elsewhere = arithmetic
    try:
        yield
    finally:
        _elsewhere = None


def _arithmetic() -> Arithmetic:
    if _elsewhere is not None:
        return _elsewhere
    from p2pfl.node import epsilons

    return epsilons


@lru_cache(maxsize=1024)
def _pld(releases: _Releases, delta: float) -> float:
    if not releases:
        return 0.0
    if sum(count for _, _, count in releases) > _MOST_RELEASES:
        return _rdp(releases, delta)  # the PLD's grid is too coarse for so many, and takes minutes
    return _arithmetic().pld(releases, delta, _interval(releases, delta))


@lru_cache(maxsize=1024)
def _rdp(releases: _Releases, delta: float) -> float:
    if all(rate == 1 for _, rate, _ in releases):
        return _unsampled(releases, delta)
    return _arithmetic().rdp(releases, delta)


def _unsampled(releases: _Releases, delta: float) -> float:
    """Epsilon by Rényi divergences as if every record were in every sample. Those of order alpha add up to
    rho * alpha (Bun, Steinke 2016, Proposition 1.6); what that means for epsilon is Proposition 12 of
    Canonne, Kamath, Steinke 2020. It holds at every order: this is the least of some about the best.
    """
    rho, log = sum(count * multiplier**-2 / 2 for multiplier, _, count in releases), math.log(1 / delta)

    def at(above: float) -> float:
        order = 1 + above
        return rho * order + (log - math.log(order)) / above + math.log(above / order)

    best = math.sqrt(log / rho) if rho else math.inf
    return max(0.0, min(at(best * step / 64) for step in range(16, 97))) if rho else 0.0


def _interval(releases: _Releases, delta: float) -> float:
    """Grid of the privacy loss: dp-accounting's own 10^-4, coarser for epsilons beyond four, where it would
    take minutes.

    Any grid gives an upper bound.
    """
    grid: float = 10.0 ** (max(0, math.ceil(math.log10(_gaussian_limit(releases, delta) / 4))) - 4)
    return grid


def _gaussian_limit(releases: _Releases, delta: float) -> float:
    """About epsilon: as if the privacy loss were normal (Dong, Roth, Su 2022, Corollary 5.4)."""
    square = sum(
        count * min(rate**2 * math.expm1(min(multiplier**-2, 700.0)), multiplier**-2)
        for multiplier, rate, count in releases
    )
    return square / 2 + math.sqrt(2 * square * math.log(1 / delta))
