"""Four members, their manifest and records, and a round of theirs, summed by the vectorised oracle."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Literal

import numpy as np

from p2pfl.crypto.identity import Identity
from p2pfl.gossip.events import Completed, Contribute
from p2pfl.gossip.manifest import (
    Column,
    DenseModel,
    GroupSpec,
    Manifest,
    PrivacySpec,
    TabularTask,
    TimingSpec,
    TrainingSpec,
)
from p2pfl.gossip.thresholds import thresholds
from p2pfl.node.learner import Learner
from p2pfl.node.privacy import calibrated
from p2pfl.node.training.table import Table

ROUNDS = 6
IDENTITIES = [Identity.from_seed(bytes([number + 1]) * 32) for number in range(4)]
PEERS = tuple(identity.peer_id for identity in IDENTITIES)
FOUR = thresholds(4, 1)


@cache
def manifest(mode: str = "distributed") -> Manifest:
    private = {"epsilon": 4.0, "delta": 1e-4} if mode != "none" else {}
    return calibrated(
        Manifest(
            name="test",
            issuers=PEERS[:1],
            members=(),
            task=TabularTask("tabular", "y", ("1",), (Column("x", "numeric", -3.0, 3.0),)),
            model=DenseModel("logistic"),
            training=TrainingSpec(ROUNDS, 1.0, 0.5, 100.0),
            privacy=PrivacySpec(mode, **private),  # type: ignore[arg-type]
            groups=GroupSpec(),
            timing=TimingSpec(),
        )
    )


def ringed(mode: str, bits: Literal[16, 32, 64], limit: float = 1.0) -> Manifest:
    agreed = manifest(mode)
    return replace(agreed, training=replace(agreed.training, ring_bits=bits, parameter_limit=limit))


def table(seed: int, count: int = 200) -> Table:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 1))
    return Table(x, (x[:, 0] + 0.3 * rng.normal(size=count) > 0).astype(np.float64), 0)


Make = Callable[[Manifest], list[Learner]]


def one_round(learners: list[Learner], round: int) -> str | None:
    """A round that completes at everybody; the stage that it was."""
    prepared = [learner.prepare(round) for learner in learners]
    if prepared[0] is None:
        assert prepared == [None] * len(learners)
        return None
    stages = {each.stage for each in prepared if each is not None}
    assert len(stages) == 1
    stage = stages.pop()
    rows = [learner.contribute(Contribute(round, 0, PEERS, FOUR))[:] for learner in learners]
    total = np.add.reduce(rows, dtype=rows[0].dtype)
    for learner in learners:
        learner.completed(Completed(round, stage, total, PEERS, PEERS, FOUR))
    return stage
