"""All of them."""

from pathlib import Path

from reproduce import digits, hearts, parties
from reproduce.runs import Figures, Form, Run


def planned(form: Form, mnist: Path | None) -> list[Run]:
    """What ``form`` consists of, with MNIST or without."""
    with_mnist = [] if mnist is None else [*digits.runs(form), *parties.runs(parties.DIGITS)]
    return [*hearts.runs(), *parties.runs(parties.HEARTS), *with_mnist]


def measure(run: Run, mnist: Path | None) -> Figures:
    """What ``run`` comes to."""
    if run.experiment == hearts.EXPERIMENT:
        return hearts.measure(run)
    if run.experiment == digits.EXPERIMENT:
        assert mnist is not None
        return digits.measure(run, mnist)
    return parties.measure(run, mnist)
