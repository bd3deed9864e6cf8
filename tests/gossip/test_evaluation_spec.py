"""When evaluations are, and what a member votes that has seen some."""

import math
from dataclasses import replace
from typing import Any

import pytest

from p2pfl.crypto.identity import Identity
from p2pfl.gossip.evaluation_spec import EvaluationSpec
from p2pfl.gossip.manifest import (
    Manifest,
    ManifestError,
    canonical_bytes,
    decode_manifest_untrusted,
    from_toml,
)


def manifest(evaluation: str = "", mode: str = "none", target: str = 'positive = ["1"]') -> Manifest:
    return from_toml(
        f"""
        name = "hearts"
        issuers = ["{Identity.from_seed(bytes(32)).peer_id}"]
        [task]
        label = "y"
        {target}
        columns = [{{ name = "x", kind = "numeric", low = 0, high = 1 }}]
        [model]
        kind = "{"logistic" if "positive" in target else "linear"}"
        [training]
        rounds = 10
        learning_rate = 0.5
        sampling_rate = 0.25
        expected_batch = 40
        [privacy]
        mode = "{mode}"
        {"" if mode == "none" else "epsilon = 1" + chr(10) + "delta = 1e-4"}
        {"[evaluation]" + chr(10) + evaluation if evaluation else ""}
        """
    )


def test_a_manifest_without_it_keeps_its_bytes_and_evaluates_at_the_end() -> None:
    plain = manifest()
    assert plain.evaluation == EvaluationSpec()
    assert b"least_records" not in canonical_bytes(plain)
    assert plain.evaluation.between(10) == 0


def test_one_with_it_comes_back() -> None:
    said = 'every = 3\nleast_records = 50\nmetric = "auc"\ntarget = 0.9\npatience = 2\nimprovement = 0.01'
    agreed = manifest(said)
    assert agreed.evaluation == EvaluationSpec(3, 50, "auc", 0.9, 2, 0.01)
    assert decode_manifest_untrusted(canonical_bytes(agreed)) == agreed
    assert agreed.digest != manifest().digest
    assert [agreed.evaluation.between(rounds) for rounds in (1, 3, 4, 6, 7)] == [0, 0, 1, 1, 2]


NUMBER = "low = 0\nhigh = 9"


@pytest.mark.parametrize(
    ("evaluation", "field", "more"),
    [
        ("every = -1", "every", {}),
        ("every = 10", "every", {}),
        ('metric = "accuracy"\ntarget = 0.9', "every", {}),
        ("every = 3\ntarget = 0.9", "metric", {}),
        ('every = 3\nmetric = "accuracy"', "metric", {}),
        ('every = 3\nmetric = "acuracy"\ntarget = 0.9', "metric", {}),
        ('every = 3\nmetric = "r2"\ntarget = 0.9', "metric", {}),
        ('every = 3\nmetric = "accuracy"\ntarget = 0.9', "metric", {"target": NUMBER}),
        ('every = 3\nmetric = "accuracy"\ntarget = 1.1', "target", {}),
        ('every = 3\nmetric = "mean_absolute_error"\ntarget = -1', "target", {"target": NUMBER}),
        ('every = 3\nmetric = "r2"\ntarget = 1.5', "target", {"target": NUMBER}),
        ('every = 3\nmetric = "accuracy"\npatience = 3', "patience", {}),  # there are three votes
        ("every = 3\nimprovement = 0.1", "improvement", {}),
        ("least_records = 5", "least_records", {"mode": "organisation"}),
        ("least_records = -5", "least_records", {}),
    ],
)
def test_contradictions_are_refused_by_their_field(evaluation: str, field: str, more: dict[str, str]) -> None:
    with pytest.raises(ManifestError) as refused:
        manifest(evaluation, **more)
    assert refused.value.field == f"evaluation.{field}"


SPEC = EvaluationSpec(1, 0, "accuracy", patience=2, improvement=0.01)


@pytest.mark.parametrize(
    ("figures", "ends"),
    [
        ([], False),
        ([0.5, 0.5], False),  # two evaluations ago there was nothing to improve on
        ([0.5, 0.5, 0.5], True),
        ([0.5, 0.4, 0.505], True),
        ([0.5, 0.4, 0.51], False),
        ([0.5, 0.6, 0.4], False),
        ([0.6, 0.5, 0.55, 0.7], False),
        ([0.6, math.nan, 0.5, 0.5], True),  # what could not be computed is passed over
        ([0.6, 0.5, 0.5, math.nan], False),
    ],
)
def test_who_has_seen_no_improvement_votes_to_end(figures: list[float], ends: bool) -> None:
    assert bool(SPEC.reason_to_end(figures)) is ends
    errors = replace(SPEC, metric="mean_loss")
    assert bool(errors.reason_to_end([1 - figure for figure in figures])) is ends


@pytest.mark.parametrize(
    ("given", "figures", "ends"),
    [
        ({"metric": "auc", "target": 0.9}, [0.95, 0.89], False),
        ({"metric": "auc", "target": 0.9}, [0.1, 0.9], True),
        ({"metric": "auc", "target": 0.9}, [math.nan], False),
        ({"metric": "mean_loss", "target": 0.3}, [0.31], False),
        ({"metric": "mean_loss", "target": 0.3}, [0.3], True),
        ({"metric": "r2", "target": -0.5}, [-0.4], True),
    ],
)
def test_who_has_seen_the_target_votes_to_end(
    given: dict[str, Any], figures: list[float], ends: bool
) -> None:
    found = EvaluationSpec(1, **given).reason_to_end(figures)
    assert bool(found) is ends
    assert (given["metric"] in found) is ends


def test_any_improvement_counts_if_none_is_named() -> None:
    spec = replace(SPEC, improvement=0.0)
    assert spec.reason_to_end([0.5, 0.5, 0.5000001]) == ""
    assert spec.reason_to_end([0.5, 0.5, 0.5]) == "accuracy has not improved in 2 evaluations"
