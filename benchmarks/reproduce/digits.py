"""MNIST under differential privacy: eight organisations beside one that holds everything, at epsilons for
which others have published accuracies.
"""

import hashlib
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Final

from p2pfl.crypto.identity import Identity
from p2pfl.crypto.randomness import seeded_random
from p2pfl.gossip.manifest import ConvolutionalModel, DenseModel, ImageTask, Manifest, from_toml
from p2pfl.node.accountant import Mechanism, epsilon
from p2pfl.node.privacy import calibrated
from p2pfl.node.training.images import load_pictures
from p2pfl.node.training.table import Table
from reproduce.federation import centralise, dealt, federate
from reproduce.runs import Figures, Form, Run

EXPERIMENT: Final = "digits"
FILES: Final = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
"""What MNIST is, by SHA-256."""
ORGANISATIONS: Final = 8
DELTA: Final = 1e-5
PICTURES: Final = 60_000
_EXAMPLE: Final = Path(__file__).parents[2] / "examples" / "digits" / "federation.toml"
_SECONDS_A_PICTURE: Final = 7e-5


@dataclass(frozen=True, slots=True)
class Published:
    """Test ``accuracy`` at ``epsilon`` (0: no privacy), as published, with its standard ``deviation``; the
    noise multiplier, sampling rate and steps behind it.
    """

    source: str
    epsilon: float
    accuracy: float
    deviation: float | None
    release: tuple[float, float, int] | None


PUBLISHED: Final = (
    Published("Opacus", 0.0, 0.9894, 0.0032, None),
    Published("Opacus", 1.16, 0.9463, 0.0034, (1.3, 0.004, 3750)),
    Published("Opacus", 2.91, 0.9678, 0.0021, (1.1, 0.004, 15_000)),
    Published("Tramèr, Boneh", 3.0, 0.981, None, (1.23, 512 / PICTURES, 40 * PICTURES // 512)),
    Published("Opacus", 6.86, 0.9709, 0.0017, (0.7, 0.004, 11_250)),
)
"""The README of Opacus' MNIST example; the README of Tramèr and Boneh, "Differentially Private Learning Needs
Better Features (or Much More Data)", ICLR 2021: its CNN.
"""
OURS: Final = {published.epsilon: published.epsilon for published in PUBLISHED} | {3.0: 2.91}
"""By published epsilon, at which we run: 2.91 stands for 3, too."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long a form trains, and on how much; ``rates``: each epsilon with its learning rate."""

    rates: tuple[tuple[float, float], ...]
    epochs: int
    batch: int
    seeds: int


SCHEDULES: Final[dict[Form, Schedule]] = {
    "short": Schedule(((2.91, 8.0),), 4, 1024, 1),
    "full": Schedule(((0.0, 0.5), (1.16, 5.0), (2.91, 9.0), (6.86, 9.0)), 24, 4096, 2),
}
"""``batch`` is of all organisations together."""


def rounds(schedule: Schedule) -> int:
    """Steps, one a round."""
    return round(schedule.epochs * PICTURES / schedule.batch)


def runs(form: Form) -> list[Run]:
    """Each epsilon, learnt in one place and in a federation, and what the published runs cost."""
    schedule = SCHEDULES[form]
    published = [published for published in PUBLISHED if OURS[published.epsilon] in dict(schedule.rates)]
    costs = [
        Run(EXPERIMENT, form, (("way", "published"), ("epsilon", one.epsilon)), 0, 5.0)
        for one in published
        if one.release is not None
    ]
    work = schedule.epochs * PICTURES * _SECONDS_A_PICTURE
    return costs + [
        Run(EXPERIMENT, form, (("way", way), ("epsilon", limit)), seed, work)
        for limit, _ in schedule.rates
        for way in ("central", "federation")
        for seed in range(schedule.seeds)
    ]


def measure(run: Run, folder: Path) -> Figures:
    """Test accuracy and what the releases cost; of what is published only that."""
    case, schedule = dict(run.case), SCHEDULES[run.form]
    if case["way"] == "published":
        [release] = [one.release for one in PUBLISHED if one.epsilon == case["epsilon"] and one.release]
        spent = epsilon([Mechanism("training", "train", "local", *release, 4, 3, 1)], DELTA)
        return {"pld": spent.pld, "rdp": spent.rdp}
    train, test = pictures(folder)
    random = seeded_random(b"digits %d" % run.seed)
    agreed = agreement(float(case["epsilon"]), schedule, ORGANISATIONS)
    agreed = replace(agreed, seed=run.seed)
    if case["way"] == "central":
        learnt = centralise(agreed, train, ORGANISATIONS, random)
    else:
        learnt = federate(agreed, dealt(train, ORGANISATIONS, run.seed), random)
    return {"accuracy": learnt.accuracy(test, 0), "pld": learnt.spent.pld, "rdp": learnt.spent.rdp}


@cache
def agreement(
    limit: float, schedule: Schedule, members: int, mode: str = "distributed", *, linear: bool = False
) -> Manifest:
    """The digits of examples/ with a smaller network or a ``linear`` model, for ``members`` and ``schedule``;
    an epsilon of 0 stands for none.
    """
    draft = _example()
    assert isinstance(draft.model, ConvolutionalModel)
    network = replace(draft.model, channels=(8, 16), hidden=())
    privacy = replace(draft.privacy, epsilon=limit or 1.0, delta=DELTA)
    training = replace(
        draft.training,
        rounds=rounds(schedule),
        sampling_rate=schedule.batch / PICTURES,
        expected_batch=schedule.batch / members,
        learning_rate=dict(schedule.rates)[limit],
    )
    return calibrated(
        replace(
            draft,
            model=DenseModel("logistic", (), draft.model.outputs) if linear else network,
            training=training,
            privacy=privacy.with_mode(mode if limit else "none"),
            groups=replace(draft.groups, size=group_size(members), minimum=3),
        )
    )


def _example() -> Manifest:
    issuer = Identity.generate(seeded_random(b"issuer")).peer_id
    return from_toml(_EXAMPLE.read_text(encoding="utf-8").replace("ISSUER", issuer))


def group_size(members: int) -> int:
    """With which all ``members`` are one group, or, of more than 31, as few groups as can be."""
    return min(16, max(3, members))


@cache
def pictures(folder: Path) -> tuple[Table, Table]:
    """For training, and for testing."""
    task, found = _example().task, []
    assert isinstance(task, ImageTask)
    for name in (name for name in FILES if "images" in name):
        loaded = load_pictures(folder / name, task, 1 << 20)
        found.append(Table(loaded.pictures, loaded.labels))
    train, test = found
    return train, test


def complaint(folder: Path) -> str | None:
    """What is wrong with the files in ``folder``, if anything."""
    for name, digest in FILES.items():
        file = folder / name
        if not file.is_file():
            return f"{file} is not there"
        if hashlib.sha256(file.read_bytes()).hexdigest() != digest:
            return f"{file} is not MNIST's: its SHA-256 is not {digest}"
    return None
