"""`make reproduce`: what it writes follows from its rows, what it computes is what a federation computes."""

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from reproduce import digits, hearts, page, parties, plot
from reproduce.__main__ import main, write
from reproduce.experiments import planned
from reproduce.federation import centralise, dealt, federate
from reproduce.rows import Row, dump, load, merged, summarised
from reproduce.runs import Figures, Form, Run, carry_out

from p2pfl.baselines import pooled, train_centrally
from p2pfl.crypto.randomness import seeded_random
from p2pfl.gossip.manifest import Manifest

DOCS = Path(__file__).parents[2] / "docs"
torch.set_num_threads(1)


def invented(form: Form = "full") -> list[Row]:
    """A row for everything that ``form`` computes with MNIST."""
    names = ("mean", "pooled", "pld", "rdp", "against two", "accuracy", "least", "most")
    every = {(run.experiment, run.form, run.case): run for run in planned(form, Path("mnist"))}
    return [
        Row(run.experiment, run.form, dict(run.case), 2, *(dict.fromkeys(names, x) for x in (0.75, 0.0125)))
        for run in every.values()
    ]


# -- what is written
def test_the_page_is_what_its_rows_say() -> None:
    assert (DOCS / "results.md").read_text(encoding="utf-8") == page.page(load(DOCS / "results.json"))


def test_the_picture_is_what_its_rows_say() -> None:
    pytest.importorskip("matplotlib")
    assert (DOCS / page.PICTURE).read_text(encoding="utf-8") == plot.draw(load(DOCS / "results.json"))


def test_every_figure_of_ours_comes_from_a_row() -> None:
    """Other rows, other figures: no accuracy of ours is written into the text."""
    rows = invented()
    other = [replace(row, mean=dict.fromkeys(row.mean, 0.5)) for row in rows]
    text = page.page(rows)
    assert text.count(".750 ± .013") == page.page(other).count(".500 ± .013") > 50
    assert text.count("75.00 ± 1.25") == 2 * len(digits.PUBLISHED)
    numbers = re.compile(r"\d+")
    assert numbers.sub("", text) == numbers.sub("", page.page(other))


def test_published_figures_stand_beside_ours() -> None:
    text = page.page(invented())
    for figure in (".685 / .748", ".735 / .795", ".606 ± .121", ".704 ± .049", "94.63 ± 0.34", "98.10"):
        assert figure in text
    assert all(digest in text for digest in digits.FILES.values())


def test_a_short_run_leaves_the_figures_of_a_full_one() -> None:
    full, short = invented("full"), invented("short")
    both = merged(full, short)
    assert {row.form for row in both} == {"any", "full", "short"}
    assert merged(both, full) == both
    text = page.page(both)
    assert "the short form" in text
    assert text.count("98.94 ± 0.32") == 1


def test_without_mnist_nothing_is_said_about_it_anew(tmp_path: Path) -> None:
    hearts_only = [row for row in invented() if row.form == "any"]
    write(tmp_path, hearts_only)
    assert "## MNIST" not in (tmp_path / "results.md").read_text(encoding="utf-8")
    write(tmp_path, invented())
    write(tmp_path, hearts_only)
    assert (tmp_path / "results.md").read_text(encoding="utf-8") == page.page(load(tmp_path / "results.json"))
    assert "## MNIST" in (tmp_path / "results.md").read_text(encoding="utf-8")


def test_rows_survive_the_file(tmp_path: Path) -> None:
    rows = invented()
    (tmp_path / "results.json").write_text(dump(rows), encoding="utf-8")
    assert load(tmp_path / "results.json") == rows


def test_wrong_files_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in digits.FILES:
        (tmp_path / name).write_bytes(b"no pictures")
    assert main(["--mnist", str(tmp_path)]) == 1
    assert "is not MNIST's" in capsys.readouterr().err
    (tmp_path / "train-images-idx3-ubyte.gz").unlink()
    assert main(["--mnist", str(tmp_path)]) == 1
    assert "is not there" in capsys.readouterr().err


# -- how it is computed
def number(run: Run) -> Figures:
    """Stands for a measurement: its seed, and which process took it."""
    if run.seed == 3:
        raise ValueError("interrupted")
    return {"seed": float(run.seed), "process": float(os.getpid())}


def some(seeds: Sequence[int]) -> list[Run]:
    return [Run("some", "any", (("way", "one"),), seed, 1.0) for seed in seeds]


def test_what_was_interrupted_goes_on_where_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = tmp_path / "run" / "rows.jsonl"
    with pytest.raises(ValueError, match="interrupted"):
        carry_out(some([0, 1, 2, 3]), number, journal, 1)
    first = journal.read_text(encoding="utf-8")
    journal.write_text(first + '["cut o', encoding="utf-8")
    done = carry_out(some([0, 1, 2, 4]), number, journal, 1)
    assert journal.read_text(encoding="utf-8").startswith(first)
    assert {run.seed: figures["seed"] for run, figures in done.items()} == {0: 0, 1: 1, 2: 2, 4: 4}
    assert len({figures["process"] for figures in done.values()}) == 2
    assert "3 of 4 runs are in" in capsys.readouterr().err
    [row] = summarised(done)
    assert (row.seeds, row.mean["seed"], row.deviation["seed"]) == (4, 1.75, 1.707825)


def agreed(mode: str, members: int, rounds: int = 3) -> Manifest:
    """Every record in every step, and noise that is not worth a calibration."""
    draft = hearts.manifest()
    privacy = draft.privacy.with_mode(mode)
    if mode != "none":
        privacy = replace(
            privacy,
            epsilon=100.0,
            noise_multiplier=5.0,
            statistics_noise_multiplier=5.0,
            evaluation_noise_multiplier=5.0,
        )
    return replace(
        draft,
        privacy=privacy,
        groups=replace(draft.groups, size=digits.group_size(members)),
        training=replace(draft.training, rounds=rounds, expected_batch=120 / members, sampling_rate=1.0),
    )


@pytest.mark.parametrize("members", [2, 3, 8])
def test_a_federation_without_privacy_takes_the_steps_of_one_who_holds_all(members: int) -> None:
    """With every record in every step, up to the grid and the coins of the encoding."""
    train = pooled(hearts.tables()[0])
    terms, random = agreed("none", members), seeded_random(b"same")
    together = federate(terms, dealt(train, members, 1), random)
    central = centralise(terms, train, members, random)
    assert np.allclose(together.models[0], central.models[0], atol=1e-4)
    assert all(np.array_equal(model, together.models[0]) for model in together.models)
    assert np.abs(central.models[0]).max() > 0.05
    assert together.spent.pld == 0


def test_thirty_two_parties_are_two_groups_that_agree_on_the_statistics() -> None:
    train = pooled(hearts.tables()[0])
    learnt = federate(agreed("none", 32), dealt(train, 32, 1), seeded_random(b"groups"))
    assert len({model.tobytes() for model in learnt.models}) == 2
    assert np.allclose(learnt.statistics, learnt.statistics[0], rtol=2e-4, atol=0.02)


@pytest.mark.parametrize(
    ("members", "mode", "shares"), [(3, "distributed", 1.5), (8, "distributed", 2.0), (8, "local", 8.0)]
)
def test_sums_carry_the_noise_that_the_page_says(members: int, mode: str, shares: float) -> None:
    """In units of the variance of what a central sum needs."""
    terms = agreed(mode, members, rounds=1)
    train = dealt(pooled(hearts.tables()[0]), members, 1)
    random = seeded_random(b"noise")
    drawn = [federate(terms, train, random, shared_statistics=False).models[0] for _ in range(40)]
    spec = terms.training
    unit = spec.learning_rate / (spec.expected_batch * members) * terms.privacy.noise_multiplier
    assert np.var(drawn, axis=0).mean() / unit**2 == pytest.approx(shares, rel=0.2)


def test_two_parties_get_no_distributed_noise() -> None:
    assert parties.possible(2) == ("none", "local")
    with pytest.raises(AssertionError):
        federate(agreed("distributed", 2), dealt(pooled(hearts.tables()[0]), 2, 1), seeded_random(b"pair"))


def test_the_hospitals_epsilon_is_kept_and_what_others_really_spent_is_more() -> None:
    run = Run(
        hearts.EXPERIMENT, "any", (("way", "federation"), ("mode", "distributed"), ("epsilon", 1.0)), 0, 1.0
    )
    figures = hearts.measure(run)
    assert 0.99 < figures["pld"] <= 1.0 < figures["rdp"] < figures["against two"]
    assert figures["mean"] > 0.7
    assert hearts.flamby_really_spent(1.0, len(hearts.tables()[0][2])) == pytest.approx(4.11, abs=0.006)


def test_the_pooled_baseline_is_the_demo_s() -> None:
    found = hearts.together(seeded_random(b"pooled"))
    train, test = hearts.tables()
    model = train_centrally(hearts.manifest(), pooled(train), seeded_random(b"pooled"))
    assert found.mean == pytest.approx(np.mean([model.accuracy(table) for table in test]))
