"""What two nodes must have alike, and what is said if they do not."""

from dataclasses import replace
from pathlib import Path

import pytest

from p2pfl.crypto.identity import Identity
from p2pfl.gossip.canonical import pack
from p2pfl.gossip.manifest import Manifest, TabularTask, from_toml
from p2pfl.heart_disease import FEDERATION_TOML
from p2pfl.node.membership import terms
from p2pfl.node.membership.admission import MAX_GREETING_BYTES, FederationAdmission, Greeting
from p2pfl.node.membership.terms import MAX_TERMS_BYTES, PLUGIN, SOFTWARE, difference, read_terms, terms_of

A, B = (Identity.from_seed(bytes([n]) * 32).peer_id for n in (1, 2))


def manifest() -> Manifest:
    draft = from_toml(FEDERATION_TOML.read_text(encoding="utf-8").replace("ISSUER", A))
    return replace(draft, members=(A, B), privacy=draft.privacy.with_mode("none"))


def refused(ours: Manifest, theirs: Manifest) -> str | None:
    greeting = FederationAdmission(theirs.digest, B, manifest=theirs).greeting()
    assert len(greeting) < MAX_GREETING_BYTES
    return FederationAdmission(ours.digest, A, manifest=ours).judge(B, greeting)


def test_nodes_of_one_manifest_let_each_other_in() -> None:
    assert refused(manifest(), manifest()) is None
    assert len(pack(dict(terms_of(manifest())))) < MAX_TERMS_BYTES


def test_the_parts_in_which_two_manifests_differ_are_named() -> None:
    one = manifest()
    assert isinstance(one.task, TabularTask)
    other = replace(
        one,
        task=replace(one.task, columns=one.task.columns[:-1]),
        training=replace(one.training, rounds=one.training.rounds + 1),
    )
    reason = refused(one, other)
    assert reason is not None
    assert reason.startswith("you are in federation ")
    assert reason.endswith("the manifests differ in task, training")


def test_other_code_of_a_plug_in_is_refused_and_another_release_of_p2pfl_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours = FederationAdmission(manifest().digest, A, manifest=manifest())
    said = dict(terms_of(manifest()))
    monkeypatch.setattr(ours, "_terms", {**said, PLUGIN: "00ff"})
    for theirs, reason in (
        ({**said, SOFTWARE: "9.9", PLUGIN: "00ff"}, None),
        ({SOFTWARE: "9.9"}, None),
        ({**said, PLUGIN: "11ff"}, "you and this node do not agree: the code of the plug-in is another"),
    ):
        found = ours.judge(B, Greeting((1,), manifest().digest, 1_800_000_000, "", theirs).to_bytes())
        assert (found or "").startswith(reason or "")
        assert bool(found) == bool(reason)


def test_a_version_that_is_not_spoken_is_named_with_its_release() -> None:
    ours = FederationAdmission(manifest().digest, A, manifest=manifest())
    reason = ours.judge(B, Greeting((7,), manifest().digest, 0, "", {SOFTWARE: "9.9"}).to_bytes())
    assert reason is not None
    assert "you speak 7 (p2pfl 9.9), this node 1 (p2pfl " in reason


@pytest.mark.parametrize(
    "sent",
    [[], {"a": 1}, {"a": ""}, {"": "a"}, {"a\n": "b"}, {"a": "b" * 65}, {str(n): "a" for n in range(33)}],
)
def test_terms_are_few_and_short(sent: object) -> None:
    with pytest.raises(ValueError, match="term"):
        read_terms(sent)


def test_the_code_of_a_plug_in_is_every_file_of_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "hearts_plugin"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "model.py").write_text("one = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    class Entry:
        module = "hearts_plugin.model"

    monkeypatch.setattr(terms, "entry_points", lambda **_: (Entry,))
    terms._code_of.cache_clear()
    before = terms._code_of("hearts")
    terms._code_of.cache_clear()
    (package / "model.py").write_text("one = 2\n")
    after = terms._code_of("hearts")
    terms._code_of.cache_clear()
    assert before != after
    assert difference({PLUGIN: before}, {PLUGIN: after})
