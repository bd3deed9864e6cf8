"""Tasks and models as a manifest declares them: what fits together, what is refused, what is bounded."""

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfl.crypto.identity import Identity
from p2pfl.gossip.canonical import pack, unpack_untrusted
from p2pfl.gossip.manifest import (
    MAX_BYTES,
    MAX_PARAMETERS,
    Column,
    ConvolutionalModel,
    DenseModel,
    ImageTask,
    Manifest,
    ManifestError,
    ModelSpec,
    OutsideTask,
    PluginTask,
    SequenceModel,
    TabularTask,
    TaskSpec,
    TextTask,
    canonical_bytes,
    decode_manifest_untrusted,
    from_toml,
)
from p2pfl.gossip.model_spec import MAX_ACTIVATIONS, sizes_for

ISSUER = Identity.from_seed(bytes(32)).peer_id
REST = """
[training]
rounds = 3
learning_rate = 0.5
sampling_rate = 0.5
expected_batch = 10
[privacy]
mode = "none"
"""


def agreed(task: str, model: str, rest: str = REST) -> Manifest:
    return from_toml(f'name = "t"\nissuers = ["{ISSUER}"]\n[task]\n{task}\n[model]\n{model}\n{rest}')


COLUMNS = 'columns = [{ name = "x", kind = "numeric", low = 0, high = 9 }]\n'
TWO = 'label = "y"\npositive = ["1"]\n' + COLUMNS
THREE = 'label = "y"\nclasses = ["a", "b", "c"]\n' + COLUMNS
NUMBER = 'label = "y"\nlow = -5\nhigh = 5\n' + COLUMNS
DIGITS = 'kind = "images"\nheight = 28\nwidth = 14\nclasses = ["a", "b", "c"]\n'
TEXT = 'kind = "text"\nalphabet = "abc \\n"\nwindow = 20\nrecord = "line"\n'
SITES = (
    'label = "y"\npositive = ["1"]\ncolumns = [{ name = "x", kind = "categorical", levels = ["a", "?"] }]\n'
)
LOGISTIC = 'kind = "logistic"\n'
CNN = 'kind = "cnn"\nchannels = [4, 6]\nhidden = [5]\n'
GRU = 'kind = "gru"\nwidth = 6\n'


# -- what fits together
@pytest.mark.parametrize(
    ("task", "model", "parameters"),
    [
        (TWO, LOGISTIC, 2),
        (TWO, 'kind = "svm"', 2),
        (TWO + 'negative = ["0", "no"]', LOGISTIC, 2),
        (THREE, LOGISTIC, 6),
        (THREE, 'kind = "svm"', 6),
        (THREE, 'kind = "mlp"\nhidden = [4]', 8 + 15),
        (NUMBER, 'kind = "linear"', 2),
        (NUMBER, 'kind = "mlp"\nhidden = [4]', 8 + 5),
        (DIGITS, LOGISTIC, 393 * 3),
        (DIGITS, CNN, (25 + 1) * 4 + (100 + 1) * 6 + (6 * 7 * 4 + 1) * 5 + 6 * 3),
        (DIGITS, CNN + "norm_groups = 2\nkernel = 3", 10 * 4 + 37 * 6 + 2 * 10 + 169 * 5 + 6 * 3),
        (TEXT, GRU, 5 * 6 + 3 * 6 * 14 + 7 * 5),
        (TEXT, 'kind = "transformer"\nwidth = 4\nheads = 2', 5 * 4 + 20 * 4 + 12 * 16 + 13 * 4 + 8 + 5 * 5),
    ],
)
def test_sizes_follow_from_the_task(task: str, model: str, parameters: int) -> None:
    manifest = agreed(task, model)
    assert manifest.model.parameters(manifest.task.features) == parameters
    assert decode_manifest_untrusted(canonical_bytes(manifest)) == manifest
    for name, size in sizes_for(manifest.task, manifest.model.kind).items():
        assert getattr(manifest.model, name) == size


def test_each_kind_is_a_record_of_its_own() -> None:
    assert agreed(TWO, LOGISTIC).task == TabularTask("tabular", "y", ("1",), (Column("x", "numeric", 0, 9),))
    assert agreed(THREE, LOGISTIC).model == DenseModel("logistic", outputs=3)
    assert agreed(DIGITS, CNN).task == ImageTask("images", 28, 14, ("a", "b", "c"), 1, 0.0, 255.0)
    assert agreed(DIGITS, CNN).model == ConvolutionalModel("cnn", (4, 6), (1, 28, 14), 3, (5,))
    assert agreed(TEXT, GRU).task == TextTask("text", "abc \n", 20, "line")
    assert agreed(TEXT, GRU).model == SequenceModel("gru", 6, (20,), 5)


def test_what_a_column_may_be_beside_its_values_has_inputs_of_its_own() -> None:
    assert Column("a", "numeric", 0, 1, missing="indicator").features == 2
    assert Column("a", "categorical", levels=("x", "y", "z"), missing="level").features == 3
    assert Column("a", "categorical", levels=("x", "y", "z"), unknown="missing").features == 2


# -- what is refused
WRONG: list[tuple[str, str, str]] = [
    (TWO.replace('positive = ["1"]', ""), LOGISTIC, "task.positive"),
    (TWO + 'classes = ["a", "b"]', LOGISTIC, "task.classes"),
    (TWO + "low = 1\nhigh = 2", LOGISTIC, "task.classes"),
    (THREE.replace('["a", "b", "c"]', '["a"]'), LOGISTIC, "task.classes"),
    (THREE.replace('["a", "b", "c"]', '["a", "a"]'), LOGISTIC, "task.classes"),
    (THREE + 'missing = ["a"]', LOGISTIC, "task.missing"),
    (TWO + 'negative = ["0"]\nmissing = ["0"]', LOGISTIC, "task.missing"),
    (TWO + 'negative = ["0", "1"]', LOGISTIC, "task.negative"),
    (TWO + 'negative = ["0", "0"]', LOGISTIC, "task.negative"),
    (TWO + 'negative = [""]', LOGISTIC, "task.negative"),
    (TWO + f"negative = {[str(cell) for cell in range(2, 259)]}", LOGISTIC, "task.negative"),
    (THREE + 'negative = ["d"]', LOGISTIC, "task.negative"),
    (NUMBER + 'negative = ["0"]', 'kind = "linear"', "task.negative"),
    (SITES + 'missing = ["?"]', LOGISTIC, "task.missing"),
    (TWO, "kind = []", "model.kind"),
    (NUMBER.replace("high = 5", "high = -6"), 'kind = "linear"', "task.high"),
    (NUMBER + "class_weights = [1, 2]", 'kind = "linear"', "task.class_weights"),
    (TWO + "class_weights = [1, 2, 3]", LOGISTIC, "task.class_weights"),
    (TWO + "class_weights = [1, 0]", LOGISTIC, "task.class_weights"),
    (TWO + "class_weights = [1, 1001]", LOGISTIC, "task.class_weights"),
    (TWO.replace("high = 9", 'high = 9, missing = "level"'), LOGISTIC, "task.columns.x.missing"),
    (TWO.replace("high = 9", 'high = 9, unknown = "missing"'), LOGISTIC, "task.columns.x.unknown"),
    (TWO.replace("high = 9", 'high = 9, missing = "mean"'), LOGISTIC, "task.columns[0].missing"),
    (TWO, 'kind = "linear"', "model.kind"),
    (TWO, CNN, "model.kind"),
    (NUMBER, LOGISTIC, "model.kind"),
    (NUMBER, 'kind = "svm"', "model.kind"),
    (TEXT, LOGISTIC, "model.kind"),
    (DIGITS, 'kind = "linear"', "model.kind"),
    (DIGITS, GRU, "model.kind"),
    (THREE, LOGISTIC + "outputs = 2", "model.outputs"),
    (THREE, LOGISTIC + "hidden = [3]", "model.hidden"),
    (DIGITS, CNN + "inputs = [1, 14, 28]", "model.inputs"),
    (DIGITS, CNN + "inputs = [1, 28]", "model.inputs"),
    (DIGITS, CNN + "kernel = 4", "model.kernel"),
    (DIGITS, CNN + "kernel = 17", "model.kernel"),
    (DIGITS, CNN + "norm_groups = 4", "model.norm_groups"),
    (DIGITS, CNN.replace("[4, 6]", "[]"), "model.channels"),
    (DIGITS, CNN.replace("[4, 6]", "[4, 9000]"), "model.channels"),
    (DIGITS, CNN.replace("[5]", "[0]"), "model.hidden"),
    (DIGITS.replace("28", "0"), CNN, "task.height"),
    (DIGITS.replace("14", "2000"), CNN, "task.width"),
    (DIGITS.replace("28", "1024").replace("14", "1024") + "channels = 2", LOGISTIC, "task.height"),
    (DIGITS + "channels = 17", CNN, "task.channels"),
    (DIGITS + "low = 255", CNN, "task.high"),
    (DIGITS.replace('["a", "b", "c"]', '["a"]'), CNN, "task.classes"),
    (DIGITS + 'label = "x"', CNN, "task.label"),
    (TEXT.replace("abc", "aac"), GRU, "task.alphabet"),
    (TEXT.replace("abc", "ab\\r"), GRU, "task.alphabet"),
    (TEXT.replace('"abc \\n"', '"a"'), GRU, "task.alphabet"),
    (TEXT.replace("20", "0"), GRU, "task.window"),
    (TEXT.replace("20", "5000"), GRU, "task.window"),
    (TEXT.replace('"line"', '"page"'), GRU, "task.record"),
    (TEXT, GRU + "heads = 2", "model.heads"),
    (TEXT, GRU + "layers = 9", "model.layers"),
    (TEXT, GRU.replace("6", "0"), "model.width"),
    (TEXT, 'kind = "transformer"\nwidth = 6\nheads = 4', "model.heads"),
    (TEXT, "width = 6", "model.kind"),
    ('kind = "sounds"', LOGISTIC, "task.kind"),
    ("kind = 5", LOGISTIC, "task.kind"),
]


@pytest.mark.parametrize(("task", "model", "field"), WRONG)
def test_what_is_wrong_is_refused_by_field(task: str, model: str, field: str) -> None:
    with pytest.raises(ManifestError) as caught:
        agreed(task, model)
    assert caught.value.field == field
    assert str(caught.value).isprintable()


def test_what_does_not_fit_is_answered_with_what_does() -> None:
    with pytest.raises(ManifestError, match='"linear" does not fit the task; use one of "logistic", "svm"'):
        agreed(TWO, 'kind = "linear"')
    with pytest.raises(
        ManifestError, match='"cnn" does not fit the task; use one of "logistic", "svm", "mlp"'
    ):
        agreed(TWO, CNN)
    with pytest.raises(ManifestError, match=r"also listed in task\.columns\.x\.levels: \['\?'\]"):
        agreed(SITES + 'missing = ["?"]', LOGISTIC)
    with pytest.raises(ManifestError, match='must be one of "tabular", "images", "text"'):
        agreed('kind = "sounds"', LOGISTIC)


def test_weight_decay_that_turns_parameters_around_is_refused() -> None:
    decayed = REST.replace("rounds = 3", "rounds = 3\nweight_decay = 2")
    assert agreed(TWO, LOGISTIC, decayed).training.weight_decay == 2
    with pytest.raises(ManifestError, match=r"training\.weight_decay: must be at most 1 / learning_rate"):
        agreed(TWO, LOGISTIC, decayed.replace("decay = 2", "decay = 2.1"))


# -- what is bounded
def test_models_that_would_not_fit_a_machine_are_refused() -> None:
    wide = DIGITS.replace("28", "1024").replace("14", "1024")
    with pytest.raises(ManifestError, match="parameters, at most 25000000"):
        agreed(TEXT, GRU.replace("6", "8192"))
    with pytest.raises(ManifestError, match=r"model\.hidden: one record becomes .* at most 16777216"):
        agreed(wide, 'kind = "cnn"\nchannels = [128, 1]\nkernel = 1')
    with pytest.raises(ManifestError, match=r"model\.width: one record becomes"):
        agreed(TEXT.replace("20", "4096"), 'kind = "transformer"\nwidth = 64\nheads = 64')


widths = st.lists(st.integers(1, 10**9), max_size=9).map(tuple)
sizes = st.integers(-(2**63), 2**63) | st.integers(0, 5000)
dense = st.builds(DenseModel, st.sampled_from(["mlp", "logistic"]), widths, sizes)
convolutional = st.builds(
    ConvolutionalModel, st.just("cnn"), widths, widths, sizes, widths, st.integers(1, 20), sizes
)
sequence = st.builds(
    SequenceModel, st.sampled_from(["gru", "transformer"]), sizes, widths, sizes, sizes, sizes
)


@settings(max_examples=200)
@given(st.data(), st.sampled_from([dense, convolutional, sequence]))
def test_whatever_a_peer_declares_is_counted_before_it_is_made(data: st.DataObject, kind: Any) -> None:
    """Counting takes no memory, and a manifest's model is within bounds."""
    try:
        model: ModelSpec = data.draw(kind)
    except ManifestError:
        return
    assert model.parameters(1 << 20) > 0
    assert model.activations(1 << 20) > 0


def test_no_declared_field_escapes_its_bound() -> None:
    """Each number of each record, set to absurd values one at a time, is refused or harmless."""
    parts = [agreed(DIGITS, CNN + ADAPTERS), agreed(THREE, 'kind = "mlp"\nhidden = [3]\nprivate = ["head"]')]
    for manifest in (
        agreed(DIGITS, CNN),
        agreed(TEXT, GRU),
        agreed(THREE, 'kind = "mlp"\nhidden = [3]'),
        *parts,
    ):
        for section in ("task", "model"):
            record: TaskSpec | ModelSpec = getattr(manifest, section)
            for field in fields(record):
                for value in (0, -1, 1 << 40, [1 << 40], [1 << 20] * 3, "1e300", "\0" * 2000, ["x"] * 5000):
                    _harmless(manifest, section, field.name, value)


def _harmless(manifest: Manifest, section: str, name: str, value: object) -> None:
    outer: Any = unpack_untrusted(canonical_bytes(manifest), MAX_BYTES)
    outer["manifest"][section][name] = value
    try:
        changed = decode_manifest_untrusted(pack(outer))
    except ManifestError:
        return
    assert 0 < changed.model.parameters(changed.task.features) <= MAX_PARAMETERS
    assert changed.model.allocated(changed.task.features) <= MAX_PARAMETERS
    assert changed.model.activations(changed.task.features) <= MAX_ACTIVATIONS


# -- what is frozen, and what is private
BACKBONE = f'backbone = "{"0f" * 32}"\n'
ADAPTERS = BACKBONE + 'train = "adapters"\nrank = 2\n'
HEAD = BACKBONE + 'train = "head"\n'
NORMS = CNN + "norm_groups = 2\n"


@pytest.mark.parametrize(
    ("task", "model", "parameters"),
    [
        (DIGITS, CNN + HEAD, 6 * 3),
        (DIGITS, CNN + ADAPTERS, 2 * (4 + 25) + 2 * (6 + 100) + 2 * (5 + 168) + 6 * 3),
        (TEXT, GRU + HEAD, 7 * 5),
        (TEXT, GRU + ADAPTERS, 2 * 2 * (18 + 6) + 7 * 5),
        (TEXT, GRU + ADAPTERS + 'private = ["head"]', 2 * 2 * (18 + 6)),
        (DIGITS, NORMS + 'private = ["norms"]', 26 * 4 + 101 * 6 + 169 * 5 + 6 * 3),
        (DIGITS, CNN + 'private = ["filters.1", "head"]', 26 * 4 + 169 * 5),
    ],
)
def test_only_what_is_trained_and_shared_is_averaged(task: str, model: str, parameters: int) -> None:
    manifest = agreed(task, model)
    assert manifest.model.parameters(manifest.task.features) == parameters
    assert decode_manifest_untrusted(canonical_bytes(manifest)) == manifest


@pytest.mark.parametrize(
    ("task", "model", "field"),
    [
        (DIGITS, CNN + 'train = "head"', "model.train"),
        (DIGITS, CNN + "rank = 2", "model.rank"),
        (DIGITS, CNN + BACKBONE, "model.train"),
        (DIGITS, CNN + HEAD + "rank = 2", "model.rank"),
        (DIGITS, CNN + BACKBONE + 'train = "adapters"', "model.rank"),
        (DIGITS, CNN + BACKBONE + 'train = "adapters"\nrank = 5', "model.rank"),
        (DIGITS, CNN + HEAD.replace("0f", "0F"), "model.backbone"),
        (DIGITS, CNN + HEAD.replace("0f", "0", 1), "model.backbone"),
        (TWO, LOGISTIC + HEAD, "model.backbone"),
        (TWO, LOGISTIC + 'private = ["head"]', "model.private"),
        (DIGITS, CNN + 'private = ["norms"]', "model.private"),
        (DIGITS, CNN + 'private = ["filters.2"]', "model.private"),
        (DIGITS, CNN + 'private = ["head", "head"]', "model.private"),
        (DIGITS, CNN + HEAD + 'private = ["filters.0"]', "model.private"),
        (DIGITS, CNN + HEAD + 'private = ["head"]', "model.private"),
    ],
)
def test_parts_that_contradict_each_other_are_refused(task: str, model: str, field: str) -> None:
    with pytest.raises(ManifestError) as caught:
        agreed(task, model)
    assert caught.value.field == field


def test_the_strongest_proximal_term_is_the_last_that_is_taken() -> None:
    steps = REST.replace("rounds = 3", "rounds = 3\nlocal_steps = 2\nweight_decay = 0.5\nproximal = 1.5")
    assert agreed(TWO, LOGISTIC, steps).training.proximal == 1.5
    with pytest.raises(ManifestError, match=r"training\.proximal: must be at most 1 / learning_rate"):
        agreed(TWO, LOGISTIC, steps.replace("proximal = 1.5", "proximal = 1.6"))


# -- what was agreed on before keeps its bytes
def test_fields_that_came_later_have_no_bytes_while_they_have_their_default() -> None:
    packed = unpack_untrusted(canonical_bytes(agreed(TWO, LOGISTIC)), MAX_BYTES)
    assert isinstance(packed, dict)
    task, model = packed["manifest"]["task"], packed["manifest"]["model"]
    assert set(task) == {"kind", "label", "positive", "columns", "missing"}
    assert set(task["columns"][0]) == {"name", "kind", "low", "high", "levels"}
    assert set(model) == {"kind", "hidden"}


# -- docs/tasks.md
GUIDE = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```toml\n(.*?)```", GUIDE, re.S)


def completed(block: str) -> Manifest:
    rest = REST if "[training]" not in block else REST.replace("[training]\n", "")
    if '"outside"' in block:  # whose loops decide on their steps
        rest = re.sub(r"^(learning_rate|sampling_rate|expected_batch) = .*\n", "", rest, flags=re.M)
    return from_toml(f'name = "t"\nissuers = ["{ISSUER}"]\n{block}\n{rest}')


def test_every_documented_block_is_a_manifest() -> None:
    kinds = {type(completed(block).task) for block in BLOCKS}
    assert kinds == {TabularTask, ImageTask, TextTask, PluginTask, OutsideTask}
    assert {completed(block).model.kind for block in BLOCKS} == {
        "mlp", "linear", "svm", "cnn", "transformer", "plugin", "outside"
    }  # fmt: skip


def test_every_field_is_documented() -> None:
    written = set(re.findall(r"(?:^|[{,] )(\w+) = ", "\n".join(BLOCKS), re.M))
    records = (TabularTask, ImageTask, TextTask, Column, DenseModel, ConvolutionalModel, SequenceModel)
    from_the_task = {"inputs", "outputs"}
    known = {field.name for record in records for field in fields(record)}
    assert known - written <= from_the_task | {"missing"}
    assert "`task.missing`" in GUIDE


def test_whatever_has_a_documented_default_may_be_left_out() -> None:
    for block in BLOCKS:
        kept = [line for line in block.splitlines() if not re.search(r"# .*\bdefault\b", line)]
        completed("\n".join(kept))


def test_documented_defaults_are_the_defaults() -> None:
    [image] = [block for block in BLOCKS if '"cnn"' in block]
    for line, pattern in (("channels", r"^channels = 1 .*\n"), ("kernel", r"^kernel = 5 .*\n")):
        without = re.sub(pattern, "", image, flags=re.M)
        assert len(without) < len(image), line
        assert completed(without) == completed(image)
