"""What to write where an experiment, or the federation that it names, lacks a key."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from p2pfl.gossip.records import FieldError

MEANT: Final[Mapping[str, str]] = {
    "name": 'what the federation is called: name = "hearts"',
    "task": "what is predicted from which columns: a table [task], see docs/tasks.md",
    "task.label": 'the column to predict: label = "num"',
    "task.columns[].name": 'of a column in the data: name = "age"',
    "task.columns[].kind": 'numeric or categorical: kind = "numeric"',
    "model": 'what is trained: a table [model] with, for example, kind = "logistic"',
    "model.kind": 'logistic, svm, mlp or another of docs/tasks.md: kind = "logistic"',
    "training": "a table [training] with rounds, learning_rate, sampling_rate and expected_batch",
    "training.rounds": "how many averages are taken, at least 1: rounds = 60",
    "training.learning_rate": "the length of a step, above 0: learning_rate = 0.5",
    "training.sampling_rate": "the probability that a record enters a step, above 0 and at most 1:"
    " sampling_rate = 0.25",
    "training.expected_batch": "records per member and step, above 0, about sampling_rate times those of a"
    " member: expected_batch = 40",
    "privacy": 'a table [privacy] with, for example, mode = "none", or a promise: see docs/federation.md',
    "privacy.mode": 'distributed, local, organisation or none: mode = "distributed"',
}
_ELSE: Final = "docs/federation.md and docs/tasks.md say what it may be"


@contextmanager
def explained() -> Iterator[None]:
    """What a missing key means, its range and an example, in the FieldError about it."""
    try:
        yield
    except FieldError as error:
        if error.reason != "missing":
            raise
        meant = MEANT.get(re.sub(r"\[\d+\]", "[]", error.field), _ELSE)
        raise FieldError(error.field, f"missing; {meant}") from None
