"""A manifest in words."""

import io
from dataclasses import replace

from p2pfl.crypto.identity import Identity
from p2pfl.explain import explain
from p2pfl.gossip.manifest import (
    ConvolutionalModel,
    DenseModel,
    GroupSpec,
    ImageTask,
    Manifest,
    PrivacySpec,
    SequenceModel,
    TabularTask,
    TextTask,
    from_toml,
)

ISSUER, MEMBER, OTHER = (Identity.from_seed(bytes([number]) * 32).peer_id for number in (1, 2, 3))
MANIFEST = from_toml(
    f"""
    name = "hearts"
    issuers = ["{ISSUER}"]
    task.label = "y"
    task.positive = ["1", "2"]
    task.columns = [{{ name = "x", kind = "categorical", levels = ["a", "b", "c"] }}]
    model.kind = "logistic"
    training = {{ rounds = 12, learning_rate = 0.5, sampling_rate = 0.25, expected_batch = 40 }}
    privacy = {{ mode = "distributed", epsilon = 2, delta = 1e-4 }}
    """
)


def words(manifest: Manifest) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in explain(manifest, io.StringIO()))


def test_every_part_is_said() -> None:
    found = words(MANIFEST)
    assert found["name"] == "hearts"
    assert found["who"] == "whoever holds a ticket of one of 1 issuer"
    assert found["task"] == "whether y is 1, 2, from 1 column (2 features)"
    assert found["columns"] == "x, one of a, b, c"
    assert found["model"] == "logistic, 2 → 1, 3 parameters"
    assert found["training"].startswith(
        "12 rounds of one step each, every record in a step with probability 0.25"
    )
    assert found["training"].endswith("; parameters up to 64 summed in 32 bits")
    assert found["groups"].startswith("4 to 7 members average together, 3 at least")
    assert found["robustness"] == "a group of 4 survives 1 member failing; stays private against 1 colluding"
    assert (
        "epsilon 2 at delta 0.0001 for every single record, if at most 1 of a group collude"
        in found["privacy"]
    )


def test_what_differs_is_said_differently() -> None:
    assert isinstance(MANIFEST.task, TabularTask)
    against = replace(MANIFEST, task=replace(MANIFEST.task, negative=("0", "9")))
    assert words(against)["task"] == "whether y is 1, 2 and not 0, 9, from 1 column (2 features)"
    listed = replace(MANIFEST, members=(MEMBER,))
    assert words(listed)["who"] == "1 member listed; 1 issuer may admit more by ticket"
    closed = replace(MANIFEST, issuers=(), members=(MEMBER, ISSUER, OTHER))
    assert words(closed)["who"] == "3 members listed, and nobody can be added"
    small = replace(MANIFEST, groups=GroupSpec(size=3))
    assert words(small)["robustness"].startswith("a group of 3 survives no member failing")
    deep = replace(MANIFEST, model=DenseModel("mlp", (8, 4)))
    assert words(deep)["model"] == "mlp, 2 → 8 → 4 → 1, 65 parameters"
    local = replace(MANIFEST, privacy=MANIFEST.privacy.with_mode("local"))
    assert "even if all others collude" in words(local)["privacy"]
    assert words(replace(MANIFEST, privacy=PrivacySpec("none")))["privacy"].startswith(
        "none: no epsilon holds"
    )


def test_an_organisation_is_promised_something_else() -> None:
    whole = replace(MANIFEST, privacy=MANIFEST.privacy.with_mode("organisation"))
    found = words(whole)["privacy"]
    assert "for all records of a member together, if at most 1 of a group collude" in found
    assert "a round's changes clipped to 1" in found


def test_every_kind_of_task_and_model_is_said() -> None:
    column = MANIFEST.task.columns
    several = replace(
        MANIFEST,
        task=TabularTask("tabular", "y", (), column, classes=("a", "b", "c")),
        model=DenseModel("logistic", outputs=3),
    )
    assert words(several)["task"] == "which of 3 classes y is, from 1 column (2 features)"
    assert words(several)["model"] == "logistic, 2 → 3, 9 parameters"
    number = replace(
        MANIFEST, task=TabularTask("tabular", "y", (), column, low=0, high=9), model=DenseModel("linear")
    )
    assert words(number)["task"].startswith("y, a number from 0 to 9, from 1 column")
    pictures = replace(
        MANIFEST,
        task=ImageTask("images", 8, 6, ("a", "b")),
        model=ConvolutionalModel("cnn", (4,), (1, 8, 6), 2, kernel=3),
    )
    assert words(pictures)["task"] == "which of 2 classes a picture shows, 8 × 6 pixels of 1 channel"
    assert words(pictures)["model"] == "cnn, 48 → 4 → 2, 138 parameters"
    text = replace(
        MANIFEST,
        task=TextTask("text", "abc", 9, "document"),
        model=SequenceModel("transformer", 4, (9,), 3, 2),
    )
    assert words(text)["task"] == "the next of 3 characters, from up to 9 before it; a record is a document"
    assert words(text)["model"].startswith("transformer, 3 → 4 → 4 → 3, ")
