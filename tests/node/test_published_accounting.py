"""Epsilon beside what other software and other people have computed.

opacus.json has the figures of Opacus' own two accountants, so that they count where it is not installed;
where it is, they are computed again. Its PRV accountant (Gopi, Lee, Wutschitz 2021) adds its error bound to
what it finds, so the truth lies within twice that below. Its RDP accountant is exact at every order, where
dp-accounting's is an upper bound at fractional ones: ``ours`` is what that gives where it is another figure.
"""

import json
import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import renyi

from p2pfl.node.accountant import Mechanism, Spent, epsilon, ladder

OPACUS = json.loads((Path(__file__).parent / "opacus.json").read_text(encoding="utf-8"))


def spent(releases: renyi.Releases, delta: float) -> Spent:
    ledger = [
        Mechanism("training", "train", "distributed", z, rate, count, 4, 3, 1) for z, rate, count in releases
    ]
    return epsilon(ledger, delta)


# -- Opacus
@pytest.mark.parametrize("row", OPACUS["ledgers"], ids=lambda row: str(row["releases"]))
def test_it_agrees_with_both_accountants_of_opacus(row: dict[str, Any]) -> None:
    ours = spent([(z, rate, count) for z, rate, count in row["releases"]], row["delta"])
    assert row["prv"] - 1.1 * OPACUS["prv_error"] <= ours.pld <= row["prv"]
    assert ours.rdp == pytest.approx(row.get("ours", row["rdp"]), rel=3e-4)
    assert row["rdp"] * (1 - 3e-4) <= ours.rdp


def test_the_figures_of_opacus_are_what_it_says() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        accountants = pytest.importorskip("opacus.accountants")
        for row in OPACUS["ledgers"]:
            for name, accountant in (
                ("prv", accountants.PRVAccountant()),
                ("rdp", accountants.RDPAccountant()),
            ):
                accountant.history = [tuple(release) for release in row["releases"]]
                assert float(accountant.get_epsilon(row["delta"])) == pytest.approx(row[name], abs=2e-6)


# -- published
@pytest.mark.parametrize(
    ("rate", "z", "steps", "pld", "rdp"),
    [
        (0.004, 1.3, 3750, 0.834, 0.922),
        (0.004, 1.1, 15000, 2.295, 2.503),
        (0.004, 0.7, 11250, 5.43, 6.09),
        (0.01, 1.1, 1000, 1.52, 1.71),
        (0.05, 2.0, 200, 1.56, 1.72),
        (512 / 60_000, 1.23, 40 * 60_000 // 512, 2.36, 2.58),  # Tramèr, Boneh 2021, MNIST, who say 3
    ],
)
def test_well_known_settings(rate: float, z: float, steps: int, pld: float, rdp: float) -> None:
    found = spent([(z, rate, steps)], 1e-5)
    assert found.pld == pytest.approx(pld, abs=0.006)
    assert found.rdp == pytest.approx(rdp, abs=0.006)


@pytest.mark.parametrize(
    ("z", "steps", "published"), [(0.7, 11250, 6.86), (1.1, 15000, 2.91), (1.3, 3750, 1.16)]
)
def test_the_mnist_table_of_opacus(z: float, steps: int, published: float) -> None:
    """Its README converts Rényi divergence the classical way; ours is the same, converted better."""
    releases = [(z, 0.004, steps)]
    assert renyi.classical_epsilon(releases, 1e-5) == pytest.approx(published, abs=0.02)
    found = spent(releases, 1e-5)
    assert found.rdp == pytest.approx(renyi.epsilon(releases, 1e-5), rel=0.02)
    assert found.pld < found.rdp < published


@pytest.mark.parametrize(
    ("nominal", "really"), [(1.0, (1.46, 1.58, 4.11, 2.30)), (5.0, (7.0, 7.6, 22.0, 11.4))]
)
def test_what_the_hospitals_of_flamby_really_spent(nominal: float, really: tuple[float, ...]) -> None:
    """Its federated runs account for 15 epochs, and take 1500 steps with batches of four."""
    for patients, cost in zip((199, 172, 30, 85), really, strict=True):
        batches = math.ceil(patients / 4)
        z = _multiplier(nominal, 1 / batches, 15 * batches)
        assert renyi.epsilon([(z, 1 / batches, 15 * batches)], 1e-4) == pytest.approx(nominal, rel=1e-3)
        assert spent([(z, 1 / batches, 1500)], 1e-4).rdp == pytest.approx(cost, rel=0.02)


def _multiplier(target: float, rate: float, steps: int) -> float:
    low, high = 0.5, 8.0
    for _ in range(16):
        middle = (low + high) / 2
        enough = renyi.epsilon([(middle, rate, steps)], 1e-4) <= target
        low, high = (low, middle) if enough else (middle, high)
    return high


def test_the_collusion_ladder_of_eight() -> None:
    entry = Mechanism("training", "train", "distributed", 1.1, 0.01, 1000, 8, 8, 1)
    rungs = [cost.pld for _, cost in ladder([entry], 1e-5)]
    assert rungs == pytest.approx([1.52, 1.76, 2.15, 2.83, 4.24, 7.9, 24.4], rel=0.01)
