"""Learners with directories of their own."""

from pathlib import Path

import pytest
from learner.members import IDENTITIES, Make, table

from p2pfl.crypto.randomness import seeded_random
from p2pfl.gossip.manifest import (
    Manifest,
)
from p2pfl.node.learner import Learner
from p2pfl.node.privacy import Budget
from p2pfl.node.storage.store import Store
from p2pfl.node.training.trainer import Trainer


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def learners(agreed: Manifest) -> list[Learner]:
        made = []
        for number, identity in enumerate(IDENTITIES):
            random = seeded_random(bytes([number]) * 32)
            store = Store.open(tmp_path / str(number), identity)
            trainer = Trainer(agreed, table(number), table(number + 10), random)
            made.append(Learner(agreed, trainer, store, Budget(agreed.privacy, store.mechanisms()), random))
        return made

    return learners
