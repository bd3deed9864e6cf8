"""The manifest: bounds and contradictions by field, one canonical form, a digest that never moves."""

import math
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfl.crypto import labels
from p2pfl.crypto.identity import Identity
from p2pfl.crypto.ring import RING_16, RING_32, RING_64
from p2pfl.gossip.canonical import pack, unpack_untrusted
from p2pfl.gossip.manifest import (
    MAX_BYTES,
    MAX_COLUMNS,
    Column,
    DenseModel,
    EvaluationSpec,
    GroupSpec,
    Manifest,
    ManifestError,
    PrivacySpec,
    TabularTask,
    TimingSpec,
    TrainingSpec,
    canonical_bytes,
    decode_manifest_untrusted,
    digest_of,
    from_toml,
)

PEERS = tuple(Identity.from_seed(bytes([number]) * 32).peer_id for number in range(1, 9))

TOML = f"""
name = "hearts"
issuers = ["{PEERS[0]}"]
members = ["{PEERS[2]}", "{PEERS[1]}"]
seed = 7

[task]
label = "num"
positive = ["1", "2", "3", "4"]
missing = ["?"]

[[task.columns]]
name = "age"
kind = "numeric"
low = 20
high = 90.5

[[task.columns]]
name = "cp"
kind = "categorical"
levels = ["1", "2", "3", "4"]

[model]
kind = "mlp"
hidden = [8, 4]

[training]
rounds = 60
learning_rate = 0.1
sampling_rate = 0.25
expected_batch = 40

[privacy]
mode = "distributed"
epsilon = 1
delta = 1e-4
clip_norm = 1.5
noise_multiplier = 3.25
statistics_noise_multiplier = 10
evaluation_noise_multiplier = 12

[groups]
size = 4
minimum = 3
colluders = 1

[timing]
epoch_rounds = 5
"""
MANIFEST = from_toml(TOML)
assert isinstance(MANIFEST.task, TabularTask)
TASK: TabularTask = MANIFEST.task
DIGEST = "330f1d232a080f0b87d1ba79ec87828ccbbdea2d5e53b561967196748ce8788a"


def edited(old: str, new: str) -> str:
    assert old in TOML
    return TOML.replace(old, new, 1)


# -- TOML
def test_toml_is_read_into_every_section() -> None:
    assert MANIFEST.name == "hearts"
    assert MANIFEST.members == tuple(sorted(PEERS[1:3]))
    assert MANIFEST.seed == 7
    assert MANIFEST.task == TabularTask(
        "tabular",
        "num",
        ("1", "2", "3", "4"),
        (Column("age", "numeric", 20.0, 90.5), Column("cp", "categorical", levels=("1", "2", "3", "4"))),
        ("?",),
    )
    assert MANIFEST.model == DenseModel("mlp", (8, 4))
    assert MANIFEST.training == TrainingSpec(60, 0.1, 0.25, 40.0, 1)
    assert MANIFEST.privacy == PrivacySpec("distributed", 1.0, 1e-4, 1.5, 3.25, 10.0, 12.0)
    assert MANIFEST.groups == GroupSpec("complete", "random", 4, 3, 1)
    assert MANIFEST.timing == replace(TimingSpec(), epoch_rounds=5)


def test_features_and_parameters_follow_from_the_columns() -> None:
    assert MANIFEST.task.features == 1 + 3
    assert MANIFEST.model.parameters(4) == (4 * 8 + 8) + (8 * 4 + 4) + (4 + 1)
    assert DenseModel("logistic").parameters(4) == 5


def test_groups_and_timing_may_be_left_out() -> None:
    short = from_toml(TOML[: TOML.index("[groups]")])
    assert (short.groups, short.timing) == (GroupSpec(), TimingSpec())


def test_the_order_of_members_in_the_file_does_not_matter() -> None:
    swapped = edited(f'["{PEERS[2]}", "{PEERS[1]}"]', f'["{PEERS[1]}", "{PEERS[2]}"]')
    assert from_toml(swapped).digest == MANIFEST.digest


def test_noise_may_be_left_for_later_but_then_there_is_no_id() -> None:
    draft = from_toml(edited("noise_multiplier = 3.25\n", ""))
    assert not draft.calibrated
    with pytest.raises(ManifestError, match="not computed yet") as caught:
        _ = draft.federation_id
    assert caught.value.field == "privacy.noise_multiplier"


def test_without_numeric_columns_the_statistics_have_no_noise() -> None:
    assert isinstance(MANIFEST.task, TabularTask)
    categorical = replace(MANIFEST.task, columns=MANIFEST.task.columns[1:])
    with pytest.raises(ManifestError, match="about no record") as caught:
        replace(MANIFEST, task=categorical)
    assert caught.value.field == "privacy.statistics_noise_multiplier"
    noise = replace(MANIFEST.privacy, statistics_noise_multiplier=0.0)
    assert replace(MANIFEST, privacy=noise).missing_noise == ("statistics_noise_multiplier",)
    agreed = replace(MANIFEST, task=categorical, privacy=noise)
    assert agreed.calibrated
    assert decode_manifest_untrusted(canonical_bytes(agreed)) == agreed
    assert not replace(agreed, privacy=replace(noise, noise_multiplier=0.0)).calibrated


def test_a_clip_norm_that_nothing_is_clipped_to_is_refused() -> None:
    promises = r"^(epsilon|delta|\w*noise_multiplier) = .*\n"
    plain_ = re.sub(promises, "", edited('mode = "distributed"', 'mode = "none"'), flags=re.M)
    with pytest.raises(ManifestError, match="clips nothing") as caught:
        from_toml(plain_)
    assert caught.value.field == "privacy.clip_norm"
    assert from_toml(plain_.replace("clip_norm = 1.5\n", "")).privacy == PrivacySpec("none")


def test_another_mode_keeps_the_promise_and_forgets_the_noise() -> None:
    local = MANIFEST.privacy.with_mode("local")
    assert local == PrivacySpec("local", 1.0, 1e-4, 1.5)
    assert not replace(MANIFEST, privacy=local).calibrated
    assert MANIFEST.privacy.with_mode("none") == PrivacySpec("none", clip_norm=1.5)
    with pytest.raises(ManifestError, match=r"privacy\.mode"):
        MANIFEST.privacy.with_mode("locl")


WRONG = [
    ('name = "hearts"', 'name = ""', "name"),
    ('name = "hearts"', 'name = " hearts"', "name"),
    ('name = "hearts"', 'name = "he\\u001b[31marts"', "name"),
    ('name = "hearts"', "name = 5", "name"),
    ("seed = 7", "seed = -1", "seed"),
    ("seed = 7", "seed = 7.0", "seed"),
    ("seed = 7", "sede = 7", "sede"),
    (f'issuers = ["{PEERS[0]}"]', 'issuers = ["12D3KooNobody"]', "issuers[0]"),
    (f'issuers = ["{PEERS[0]}"]', f'issuers = ["{PEERS[0]}", "{PEERS[0]}"]', "issuers"),
    (f'issuers = ["{PEERS[0]}"]', 'issuers = "me"', "issuers"),
    (f'issuers = ["{PEERS[0]}"]', "", "members"),
    ('label = "num"', "", "task.label"),
    ('label = "num"', 'label = "age"', "task.label"),
    ('positive = ["1", "2", "3", "4"]', "positive = []", "task.positive"),
    ('missing = ["?"]', 'missing = ["1"]', "task.missing"),
    ('missing = ["?"]', 'kind = "sounds"', "task.kind"),
    ('kind = "numeric"', 'kind = "number"', "task.columns[0].kind"),
    ("low = 20\n", "", "task.columns[0].low"),
    ("low = 20\n", "low = 95\n", "task.columns.age.high"),
    ("low = 20\n", "low = nan\n", "task.columns[0].low"),
    ("low = 20\n", "low = 1e300\n", "task.columns.age.low"),
    ("low = 20\n", 'low = "20"\n', "task.columns[0].low"),
    ("low = 20\n", 'low = 20\nlevels = ["a", "b"]\n', "task.columns.age.levels"),
    ('levels = ["1", "2", "3", "4"]', 'levels = ["1"]', "task.columns.cp.levels"),
    ('levels = ["1", "2", "3", "4"]', 'levels = ["1", "1"]', "task.columns.cp.levels"),
    ('levels = ["1", "2", "3", "4"]', 'levels = ["1", "2"]\nlow = 1', "task.columns.cp.low"),
    ('name = "cp"', 'name = "age"', "task.columns"),
    ('kind = "mlp"', 'kind = "logistic"', "model.hidden"),
    ("hidden = [8, 4]", "hidden = []", "model.hidden"),
    ("hidden = [8, 4]", "hidden = [0]", "model.hidden"),
    ("hidden = [8, 4]", "hidden = [8.0]", "model.hidden[0]"),
    ("hidden = [8, 4]", "hidden = [8192, 8192]", "model.hidden"),
    ("rounds = 60", "rounds = 0", "training.rounds"),
    ("rounds = 60", "rounds = true", "training.rounds"),
    ("learning_rate = 0.1", "learning_rate = 0", "training.learning_rate"),
    ("sampling_rate = 0.25", "sampling_rate = 1.5", "training.sampling_rate"),
    ("expected_batch = 40", "expected_batch = 0", "training.expected_batch"),
    ("expected_batch = 40", "expected_batch = 40\nlocal_steps = 2", "training.local_steps"),
    ("expected_batch = 40", "expected_batch = inf", "training.expected_batch"),
    ("expected_batch = 40", "expected_batch = 40\nring_bits = 24", "training.ring_bits"),
    ("expected_batch = 40", "expected_batch = 40\nring_bits = 32.0", "training.ring_bits"),
    ("expected_batch = 40", 'expected_batch = 40\nring_bits = "32"', "training.ring_bits"),
    ("expected_batch = 40", "expected_batch = 40\nring_bits = 16", "training.ring_bits"),
    ("expected_batch = 40", "expected_batch = 40\nparameter_limit = 0", "training.parameter_limit"),
    ("expected_batch = 40", "expected_batch = 40\nparameter_limit = 2e9", "training.parameter_limit"),
    ("expected_batch = 40", "expected_batch = 40\nparameter_limit = 1e9", "training.parameter_limit"),
    ("expected_batch = 40", "expected_batch = 40\nmomentum = 1", "training.momentum"),
    ("expected_batch = 40", "expected_batch = 40\nmomentum = -0.1", "training.momentum"),
    ("expected_batch = 40", "expected_batch = 40\nmomentum = nan", "training.momentum"),
    ("expected_batch = 40", "expected_batch = 40\nproximal = 0.1", "training.proximal"),
    ("expected_batch = 40", "expected_batch = 40\nproximal = -1", "training.proximal"),
    ('mode = "distributed"', "", "privacy.mode"),
    ('mode = "distributed"', 'mode = "off"', "privacy.mode"),
    ('mode = "distributed"', 'mode = "none"', "privacy.epsilon"),
    ("epsilon = 1\n", "epsilon = 0\n", "privacy.epsilon"),
    ("epsilon = 1\n", "", "privacy.epsilon"),
    ("delta = 1e-4", "delta = 1", "privacy.delta"),
    ("delta = 1e-4", "delta = 0.0", "privacy.delta"),
    ("clip_norm = 1.5", "clip_norm = 0", "privacy.clip_norm"),
    ("clip_norm = 1.5", "clip_norm = -1", "privacy.clip_norm"),
    ("clip_norm = 1.5", "clip_norm = 9e-15", "privacy.clip_norm"),
    ("noise_multiplier = 3.25", "noise_multiplier = -3.25", "privacy.noise_multiplier"),
    ("size = 4", 'size = 4\ntopology = "moebius"', "groups.topology"),
    ("size = 4", "size = 2", "groups.size"),
    ("minimum = 3", "minimum = 2", "groups.minimum"),
    ("colluders = 1", "colluders = 0", "groups.colluders"),
    ("colluders = 1", "colluders = 2", "groups.minimum"),
    ("epoch_rounds = 5", "epoch_rounds = 0", "timing.epoch_rounds"),
    ("epoch_rounds = 5", "round_seconds = 20", "timing.round_seconds"),
    ("epoch_rounds = 5", "phase_secs = 20", "timing.phase_secs"),
    ("[model]", "[modle]", "modle"),
    ("[model]\n", "[model", ""),
]


@pytest.mark.parametrize(("old", "new", "field"), WRONG)
def test_what_is_wrong_is_refused_by_field(old: str, new: str, field: str) -> None:
    with pytest.raises(ManifestError) as caught:
        from_toml(edited(old, new))
    assert caught.value.field == field
    message = str(caught.value)
    assert message.isprintable()
    assert not message.endswith(".")
    assert re.match(r"[a-z0-9']", caught.value.reason)


def test_an_unknown_key_is_answered_with_the_closest_one() -> None:
    with pytest.raises(ManifestError, match="did you mean phase_seconds"):
        from_toml(edited("epoch_rounds = 5", "phase_secs = 20"))


def test_too_many_members_and_columns_are_refused() -> None:
    column = TASK.columns[0]
    many = tuple(replace(column, name=f"c{number}") for number in range(MAX_COLUMNS + 1))
    with pytest.raises(ManifestError, match=r"task\.columns: has 4097 entries"):
        replace(TASK, columns=many)
    with pytest.raises(ManifestError, match=r"members: has 257 entries"):
        replace(MANIFEST, members=PEERS[:1] * 257)
    with pytest.raises(ManifestError, match="more than 1048576 characters"):
        from_toml("#" * (MAX_BYTES + 1))


def test_a_manifest_that_would_not_fit_has_no_canonical_form() -> None:
    levels = tuple(f"{number:0128}" for number in range(256))
    columns = tuple(Column(f"c{number}", "categorical", levels=levels) for number in range(40))
    noise = replace(MANIFEST.privacy, statistics_noise_multiplier=0.0)
    wide = replace(MANIFEST, task=replace(TASK, columns=columns), privacy=noise)
    with pytest.raises(ManifestError, match="at most 1048576"):
        canonical_bytes(wide)


# -- the ring of the parameters
def ringed(bits: int, limit: float) -> Manifest:
    return from_toml(
        edited("expected_batch = 40", f"expected_batch = 40\nring_bits = {bits}\nparameter_limit = {limit}")
    )


def test_the_ring_and_the_limit_are_declared() -> None:
    assert (MANIFEST.training.ring, MANIFEST.training.parameter_limit) == (RING_32, 64.0)
    assert ringed(64, 1e9).training.ring == RING_64
    assert ringed(16, 8).training.ring == RING_16


def test_too_few_bits_are_refused_with_what_would_do() -> None:
    with pytest.raises(ManifestError, match=r"7 parameters up to 64 .* steps of 0\.03125; .* at most 8$"):
        ringed(16, 64)
    with pytest.raises(ManifestError, match=r"at most 8$"):
        ringed(16, math.nextafter(8, 9))
    with pytest.raises(ManifestError, match=r"does not fit into 32 bits; take ring_bits = 64, or less"):
        ringed(32, 1e9)


def test_a_default_of_a_field_that_came_later_has_no_bytes() -> None:
    assert ringed(32, 64).digest == MANIFEST.digest
    for later in (ringed(64, 64), ringed(32, 63.5)):
        assert later.digest != MANIFEST.digest
        assert decode_manifest_untrusted(canonical_bytes(later)) == later
    for name, value in (("ring_bits", 32), ("parameter_limit", "64.0")):
        with pytest.raises(ManifestError, match="not in canonical form"):
            decode_manifest_untrusted(_repacked("manifest", "training", name, value=value))
    for value in ("64", True, 0):
        with pytest.raises(ManifestError, match=r"training\.ring_bits: must be one of 16, 32, 64, not"):
            decode_manifest_untrusted(_repacked("manifest", "training", "ring_bits", value=value))


# -- canonical form
def test_the_digest_never_moves() -> None:
    assert MANIFEST.federation_id == DIGEST
    assert digest_of(canonical_bytes(MANIFEST)) == MANIFEST.digest == bytes.fromhex(DIGEST)
    assert labels.MANIFEST_DIGEST == b"p2pfl/manifest-digest/v1"


def test_whole_numbers_and_floats_of_the_same_value_are_the_same_manifest() -> None:
    assert from_toml(edited("epsilon = 1\n", "epsilon = 1.0\n")).digest == MANIFEST.digest
    as_int = replace(MANIFEST, privacy=replace(MANIFEST.privacy, epsilon=1))
    assert as_int.digest == MANIFEST.digest


@pytest.mark.parametrize("mask", [0x01, 0x80])
def test_every_flipped_byte_is_another_federation_or_none(mask: int) -> None:
    good = canonical_bytes(MANIFEST)
    for position in range(len(good)):
        bad = bytearray(good)
        bad[position] ^= mask
        try:
            found = decode_manifest_untrusted(bytes(bad))
        except ManifestError:
            continue
        assert found != MANIFEST
        assert found.digest == digest_of(bytes(bad)) != MANIFEST.digest


def _repacked(*path: str, value: object) -> bytes:
    outer = unpack_untrusted(canonical_bytes(MANIFEST), MAX_BYTES)
    assert isinstance(outer, dict)
    table: Any = outer
    for key in path[:-1]:
        table = table[key]
    if value is None:
        del table[path[-1]]
    else:
        table[path[-1]] = value
    return pack(outer)


@pytest.mark.parametrize(
    "text", ["1", "1.00", "1e0", "+1.0", " 1.0", "nan", "inf", "-inf", "one", "1_0.0", ""]
)
def test_floats_have_one_spelling(text: str) -> None:
    with pytest.raises(ManifestError, match=r"privacy\.epsilon: must be"):
        decode_manifest_untrusted(_repacked("manifest", "privacy", "epsilon", value=text))


def test_nothing_may_be_missing_or_added_or_of_another_format() -> None:
    cases: list[tuple[tuple[str, ...], object, str]] = [
        (("manifest", "groups", "schedule"), None, r"groups\.schedule: missing"),
        (("manifest", "privacy", "epsilon"), 1, r"privacy\.epsilon: must be the canonical text"),
        (("manifest", "privacy", "noise_multiplier"), "0.0", "not computed yet"),
        (("manifest", "groups", "colour"), "red", r"groups\.colour: unknown field"),
        (("manifest", "extra"), b"\0", "extra: unknown field"),
        (
            ("manifest", "training", "optimizer"),
            "adam",
            r"training\.optimizer: unknown field; a step is plain SGD",
        ),
        (("manifest",), [], "must be a table"),
        (("extra",), 1, "not a manifest"),
        (("format",), 2, "reads format 1, not 2"),
        (("format",), True, "reads format 1, not True"),
    ]
    for path, value, words in cases:
        with pytest.raises(ManifestError, match=words):
            decode_manifest_untrusted(_repacked(*path, value=value))


def test_control_characters_of_a_peer_never_reach_the_message() -> None:
    evil = "\x1b[2J\n" * 5
    cases: list[tuple[tuple[str, ...], object]] = [
        (("manifest", "name"), evil),
        (("manifest", evil), 1),
        (("manifest", "model", "kind"), evil),
    ]
    for path, value in cases:
        with pytest.raises(ManifestError) as caught:
            decode_manifest_untrusted(_repacked(*path, value=value))
        assert str(caught.value).isprintable()


def test_too_large_is_refused() -> None:
    with pytest.raises(ManifestError, match="not a manifest"):
        decode_manifest_untrusted(canonical_bytes(MANIFEST) + b"\0" * MAX_BYTES)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_with_a_manifest_error(data: bytes) -> None:
    with pytest.raises(ManifestError):
        decode_manifest_untrusted(data)


# -- round trip over all manifests
numbers = st.floats(min_value=1e-9, max_value=8e4)
RING_BITS: st.SearchStrategy[Literal[16, 32, 64]] = st.sampled_from([16, 32, 64])
words = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=12)


@st.composite
def columns(draw: st.DrawFn) -> Column:
    name = "x" + draw(words)
    if draw(st.booleans()):
        low, width = draw(st.floats(-1e6, 1e6)), draw(st.floats(1.0, 1e6))
        return Column(name, "numeric", low, low + width)
    return Column(
        name, "categorical", levels=tuple(draw(st.lists(words, min_size=2, max_size=5, unique=True)))
    )


@st.composite
def privacies(draw: st.DrawFn) -> PrivacySpec:
    if draw(st.booleans()):
        return PrivacySpec("none", clip_norm=draw(numbers))
    epsilon, delta = draw(st.floats(1e-6, 1e3)), draw(st.floats(1e-300, 0.5))
    mode: Literal["distributed", "local"] = draw(st.sampled_from(["distributed", "local"]))
    return PrivacySpec(mode, epsilon, delta, *draw(st.tuples(numbers, numbers, numbers, numbers)))


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    colluders = draw(st.integers(1, 5))
    minimum = colluders + 2 + draw(st.integers(0, 5))
    described = draw(st.lists(columns(), min_size=1, max_size=4, unique_by=lambda column: column.name))
    privacy = draw(privacies())
    if all(column.kind == "categorical" for column in described):
        privacy = replace(privacy, statistics_noise_multiplier=0.0)
    labels_, missing = draw(st.lists(words, min_size=1, max_size=3, unique=True)), ("", "?" * 9)
    return Manifest(
        name=draw(words),
        issuers=PEERS[:1],
        members=tuple(sorted(draw(st.lists(st.sampled_from(PEERS), max_size=5, unique=True)))),
        task=TabularTask(
            "tabular",
            "label",
            tuple(labels_),
            tuple(described),
            missing,
        ),
        model=draw(
            st.sampled_from([DenseModel("logistic"), DenseModel("mlp", (3,)), DenseModel("mlp", (5, 2))])
        ),
        training=TrainingSpec(
            draw(st.integers(1, 10**6)),
            draw(numbers),
            draw(st.floats(1e-9, 1)),
            draw(numbers),
            ring_bits=(bits := draw(RING_BITS)),
            parameter_limit=draw(st.just(64.0) | st.floats(1e-9, 1e6)) if bits > 16 else 0.25,
        ),
        privacy=privacy,
        groups=GroupSpec(
            "complete", draw(st.sampled_from(["random", "grid"])), minimum + 2, minimum, colluders
        ),
        timing=TimingSpec(
            draw(st.integers(1, 100)), *draw(st.tuples(numbers, st.just(1.5), st.just(2.5), st.just(9.0)))
        ),
        seed=draw(st.integers(0, (1 << 63) - 1)),
    )


@settings(max_examples=60, deadline=None)
@given(manifests())
def test_the_canonical_form_gives_the_manifest_back(manifest: Manifest) -> None:
    data = canonical_bytes(manifest)
    assert decode_manifest_untrusted(data) == manifest
    assert digest_of(data) == manifest.digest


@settings(max_examples=60, deadline=None)
@given(manifests(), st.data())
def test_any_damage_is_another_federation_or_none(manifest: Manifest, data: st.DataObject) -> None:
    good = canonical_bytes(manifest)
    position = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    bad[position] ^= data.draw(st.integers(1, 255))
    try:
        found = decode_manifest_untrusted(bytes(bad))
    except ManifestError:
        return
    assert found.digest != manifest.digest


def test_bounds_refuse_nan() -> None:
    for name in ("learning_rate", "sampling_rate", "expected_batch"):
        with pytest.raises(ManifestError, match=name):
            replace(MANIFEST.training, **{name: math.nan})  # type: ignore[arg-type]  # none of these is a whole number


# -- docs/federation.md
GUIDE = (Path(__file__).parents[2] / "docs" / "federation.md").read_text(encoding="utf-8")


def test_the_documented_example_is_a_manifest_with_every_field_in_it() -> None:
    [example] = re.findall(r"```toml\n(.*?)```", GUIDE, re.S)
    manifest = from_toml(example)
    assert manifest.calibrated
    written = set(re.findall(r"^(\w+) = ", example, re.M))
    records: tuple[type, ...] = (Manifest, TabularTask, Column, DenseModel, TrainingSpec, PrivacySpec)
    records += (GroupSpec, TimingSpec, EvaluationSpec)
    sections = {"task", "model", "training", "privacy", "groups", "timing", "columns", "evaluation"}
    elsewhere = {"classes", "class_weights", "unknown"}  # docs/tasks.md
    from_the_task = {"outputs"}
    elsewhere |= {"backbone", "train", "rank", "private", "initial"}
    known = {field.name for record in records for field in fields(record)}
    assert written == known - sections - elsewhere - from_the_task


def test_documented_defaults_are_the_defaults() -> None:
    [example] = re.findall(r"```toml\n(.*?)```", GUIDE, re.S)
    full = from_toml(example)
    optional = (
        r"^(seed|missing|local_steps|ring_bits|parameter_limit|weight_decay|proximal|momentum|clip_norm|topology|schedule|size|minimum|colluders|epoch_rounds|\w+_seconds"
        r'|kind = "tabular")'
    )
    short = from_toml("\n".join(line for line in example.splitlines() if not re.match(optional, line)))
    assert isinstance(full.task, TabularTask)
    assert short == replace(full, task=replace(full.task, missing=("",)))


def test_the_documented_table_of_group_sizes_is_right() -> None:
    rows = re.findall(r"^\| (\d+) \| (\d+) \| (\d+) \|$", GUIDE, re.M)
    assert len(rows) == 6
    for members, colluders, drops in rows:
        groups = GroupSpec(size=int(members), minimum=int(colluders) + 2, colluders=int(colluders))
        assert groups.thresholds.tolerated_drops == int(drops)
