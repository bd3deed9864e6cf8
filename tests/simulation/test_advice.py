"""`p2pfl simulate advise`: its advice makes a manifest, follows from seeds, and is no where nothing helps."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch

from p2pfl.cli import main
from p2pfl.gossip.manifest import GroupSpec
from p2pfl.node.errors import ExitCode
from p2pfl.simulation.advice import (
    LARGEST,
    Advice,
    Asked,
    Choice,
    ImpossibleError,
    Search,
    Trial,
    groups_of,
    recommended,
    sizes,
    skipped,
)
from p2pfl.simulation.advice_problem import made_up, own
from p2pfl.simulation.partitions import PartitionError
from p2pfl.simulation.scenario import read
from p2pfl.simulation.scenario_report import perform
from p2pfl.simulation.traffic import sent_bytes

torch.set_num_threads(1)
ASKED = Asked(8, epsilon=4.0, delta=1e-4, colluders=1, offline=0.1, rounds=(8, 8), seeds=2)
WORDS = "--nodes 8 --records 40 --epsilon 4 --delta 1e-4 --offline 0.1 --rounds 8-8 --seeds 2 --features 3"
REST = """
name = "completed"
issuers = ["12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X"]
[task]
kind = "tabular"
label = "y"
positive = ["1"]
columns = [{ name = "x", kind = "numeric", low = -3, high = 3 }]
[model]
kind = "logistic"
"""


def test_what_it_prints_is_part_of_a_federation_that_can_be_created(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = tmp_path / "part.toml"
    assert main(["simulate", "advise", *WORDS.split(), "--out", str(part)]) == 0
    said = capsys.readouterr().out
    assert part.read_text() in said
    assert all(
        words in said for words in ("accuracy: ", "may fail", "what it beat", "MB sent", "groups of 4")
    )
    whole = tmp_path / "whole.toml"
    whole.write_text(REST + part.read_text())
    assert main(["federation", "create", str(whole)]) == 0
    assert whole.with_suffix(".manifest").exists()


def test_it_follows_from_its_seeds_and_names_what_it_beat() -> None:
    problem = made_up(8, 40, 3)
    said: list[str] = []
    found = Search(ASKED, problem.draft, problem.dealt, said.append, lambda: None).run()
    again = made_up(8, 40, 3)
    assert found == Search(ASKED, again.draft, again.dealt, said.append, lambda: None).run()
    assert len(said) == 6
    assert found.manifest.calibrated
    assert found.roster.members == 8 // groups_of(8, found.chosen.choice.size)
    assert found.manifest.groups == GroupSpec("complete", "random", found.chosen.choice.size, 3, 1)
    assert {other.choice.mode for other in found.others} == {"distributed", "local"}
    assert {groups_of(8, other.choice.size) for other in (found.chosen, *found.others)} == {1, 2}
    assert all(found.why(other) for other in found.others)
    assert found.expected.choice == found.chosen.choice
    assert not set(found.expected.accuracy) & set(found.chosen.accuracy)  # of other seeds than chose it


def test_a_sparse_graph_without_large_enough_groups_is_not_tried() -> None:
    asked = replace(ASKED, nodes=16, colluders=6, offline=0.0, seeds=1)
    problem = made_up(16, 20, 2)
    found = Search(asked, problem.draft, problem.dealt, lambda _: None, lambda: None).run()
    assert {groups_of(16, each.choice.size) for each in found.others} == {1, 2}
    assert {each.choice.topology for each in (found.chosen, *found.others)} == {"complete"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"colluders": 7}, "it takes 9 members to hide one of them from 7 colluders; there are 8"),
        (
            {"offline": 0.75},
            "with 75% of 8 members offline, .* a colluder are there in only 32% of the rounds",
        ),
        ({"nodes": 40, "colluders": 15}, "cut to 16, which is too few against 15 colluders"),
    ],
)
def test_the_impossible_is_refused_with_a_reason(changes: dict[str, float], words: str) -> None:
    with pytest.raises(ImpossibleError, match=words):
        sizes(replace(ASKED, **changes))  # type: ignore[arg-type]


def test_the_command_refuses_in_its_own_words(capsys: pytest.CaptureFixture[str]) -> None:
    for words, reason in (
        ("--nodes 3 --records 9 --epsilon 1 --colluders 2", "it takes 4 members"),
        ("--nodes 9 --epsilon 1", "--records, or --data, must be given"),
        ("--nodes 9 --records 9 --epsilon 1 --rounds ten", "not like 10-160"),
    ):
        assert main(["simulate", "advise", *words.split()]) == ExitCode.USAGE
        assert reason in capsys.readouterr().err


@pytest.mark.parametrize("nodes", [3, 4, 7, 24, 31, 32, 100, 256])
def test_every_size_cuts_differently_and_hides(nodes: int) -> None:
    asked = replace(ASKED, nodes=nodes, offline=0.0)
    found = sizes(asked)
    assert 1 <= len(found) <= 5
    assert all(asked.minimum <= size <= LARGEST for size in found)
    assert len({groups_of(nodes, size) for size in found}) == len(found)
    assert skipped(asked, nodes) == 0.0


def test_three_who_are_sometimes_offline_are_few_and_not_impossible() -> None:
    asked = replace(ASKED, nodes=3)
    assert sizes(asked) == [3]
    assert skipped(asked, 3) == pytest.approx(1 - 0.9**3)


def test_a_group_is_too_small_as_often_as_it_is() -> None:
    asked = replace(ASKED, offline=0.5)
    assert skipped(asked, 4) == pytest.approx(11 / 16)


def trial(accuracy: float, megabytes: float, mode: Literal["distributed", "local"] = "distributed") -> Trial:
    choice = Choice(1, 1.0, 1.0, 4, mode=mode)
    return Trial(choice, (accuracy - 0.1, accuracy + 0.1), (accuracy, accuracy), megabytes * 1e6)


def test_it_recommends_what_sends_least_of_those_that_are_as_accurate() -> None:
    best, frugal, worse = trial(0.9, 50), trial(0.897, 5), trial(0.8, 2)
    assert recommended([best, frugal, worse]) is frugal
    assert recommended([trial(0.9, 0.5), trial(0.899, 0.1)]).mean == pytest.approx(0.9), (
        "bytes that cost nothing"
    )
    assert recommended([trial(0.8, 5), trial(0.9, 1, mode="local")]).choice.mode == "distributed"
    advice = Advice(made_up(8, 4, 2).draft, 8, 0.0, frugal, (best, worse), frugal)
    assert advice.why(worse) == "less accurate by 0.097"
    assert advice.why(best) == "no more accurate to speak of, and sends 10 times as much"


def test_records_of_one_s_own_are_dealt_and_must_be_enough() -> None:
    dealt = own(24, 12, "heart_disease", None).dealt(0)
    assert [len(table) for table in dealt.train] == [12] * 24
    with pytest.raises(PartitionError, match="has 20 training records for each of 24 nodes, not 50"):
        own(24, 50, "heart_disease", None).dealt(0)


def test_json_has_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "advise", *WORDS.split(), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["recommended"]["accuracy"] > 0.6
    assert found["group"]["may_fail"] >= 1
    assert found["others"][0].keys() > {"accuracy", "bytes", "why_not", "rounds"}
    assert "[privacy]" in found["toml"]


@pytest.mark.parametrize(("members", "elements"), [(4, 14), (8, 14), (4, 10_000)])
def test_members_send_as_many_bytes_as_it_reckons_with(members: int, elements: int) -> None:
    calm = read("calm-12")
    small = replace(
        calm,
        nodes=members,
        elements=elements,
        groups=GroupSpec(size=members),
        timing=replace(calm.timing, epoch_rounds=1000),
    )
    short, long = (perform(replace(small, rounds=rounds)).row["bytes"] for rounds in (2, 6))
    measured = (int(str(long)) - int(str(short))) / 4 / members
    assert sent_bytes(members, 4 * elements) == pytest.approx(measured, rel=0.05)


def test_long_vectors_go_in_chunks() -> None:
    """As measured over libp2p: docs/performance.md."""
    for members, times in ((4, 1.003), (8, 1.006), (16, 1.018)):
        vector = 4_000_000
        assert sent_bytes(members, vector) == pytest.approx(
            2 * (members - 1) / members * vector * times, rel=1e-3
        )
