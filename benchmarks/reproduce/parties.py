"""Accuracy against the number of parties: without privacy, with local noise, with distributed noise, after
figures of Truex et al., "A Hybrid Approach to Privacy-Preserving Federated Learning" (AISec 2019).

A fixed number of records is dealt to ever more parties, so that whatever falls falls because of the parties.
(Were it a fixed number for each, more parties would be more records, and everything would rise.) Epsilon, the
expected batch of all parties together and the number of rounds stay as they are.
"""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Final

from p2pfl.baselines import pooled
from p2pfl.crypto.randomness import seeded_random
from p2pfl.gossip.manifest import Manifest
from p2pfl.node.privacy import calibrated
from reproduce import digits, hearts
from reproduce.digits import Schedule, group_size
from reproduce.federation import dealt, federate
from reproduce.runs import Figures, Run

HEARTS: Final = "parties, heart disease"
DIGITS: Final = "parties, MNIST"
EPSILON: Final = {HEARTS: 1.0, DIGITS: 0.2}
MODES: Final = ("none", "local", "distributed")
SEEDS: Final = {HEARTS: 40, DIGITS: 2}
PARTIES: Final = (2, 3, 4, 8, 16, 32)
SCHEDULE: Final = Schedule(((0.0, 0.5), (EPSILON[DIGITS], 1.0)), 4, 1024, SEEDS[DIGITS])


def runs(experiment: str) -> list[Run]:
    """Of minutes, so that there is one form."""
    return [
        Run(experiment, "any", (("parties", members), ("mode", mode)), seed, _work(experiment, members))
        for members in PARTIES
        for mode in possible(members)
        for seed in range(SEEDS[experiment])
    ]


def _work(experiment: str, members: int) -> float:
    return 0.02 * members if experiment == HEARTS else 5 + 0.5 * members


def possible(members: int) -> tuple[str, ...]:
    """Two parties have no sum to hide in: each subtracts its own."""
    return MODES if members > 2 else MODES[:2]


def measure(run: Run, folder: Path | None) -> Figures:
    """Test accuracy, the mean over the parties."""
    case = dict(run.case)
    members, mode = int(case["parties"]), str(case["mode"])
    random = seeded_random(b"parties %d" % run.seed)
    if run.experiment == HEARTS:
        agreed = _hearts(members, mode)
        train, test = map(pooled, hearts.tables())
    else:
        assert folder is not None
        agreed = digits.agreement(
            EPSILON[DIGITS] if mode != "none" else 0.0, SCHEDULE, members, mode, linear=True
        )
        train, test = digits.pictures(folder)
    agreed = replace(agreed, seed=run.seed)
    learnt = federate(agreed, dealt(train, members, run.seed), random)
    return {"accuracy": learnt.mean_accuracy(test), "pld": learnt.spent.pld}


@cache
def _hearts(members: int, mode: str) -> Manifest:
    draft = hearts.manifest()
    records = sum(map(len, hearts.tables()[0]))
    training = replace(draft.training, expected_batch=records * draft.training.sampling_rate / members)
    privacy = replace(draft.privacy, epsilon=EPSILON[HEARTS]).with_mode(mode)
    groups = replace(draft.groups, size=group_size(members))
    return calibrated(replace(draft, training=training, privacy=privacy, groups=groups))
