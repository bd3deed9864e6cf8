"""Tasks whose code is not p2pfl's, as a manifest declares them: what is bounded, and what is refused."""

import pytest

from p2pfl.crypto.identity import Identity
from p2pfl.gossip.manifest import (
    Manifest,
    ManifestError,
    OutsideModel,
    PluginModel,
    PluginTask,
    Tensor,
    canonical_bytes,
    decode_manifest_untrusted,
    from_toml,
)
from p2pfl.gossip.own_spec import MAX_ARGUMENTS, IntegerArgument, NumberArgument, TextArgument

ISSUER = Identity.from_seed(bytes(32)).peer_id
STEPS = "learning_rate = 0.5\nsampling_rate = 0.5\nexpected_batch = 10\n"
NONE = 'mode = "none"'
ORGANISATION = 'mode = "organisation"\nepsilon = 1\ndelta = 1e-3'
PLUGIN = 'kind = "plugin"\nname = "counts"\nversion = "1.0"\n'
SIZED = 'kind = "plugin"\nsize = 9\noutputs = 2\n'
OUTSIDE = 'kind = "outside"\n'
ARRAYS = 'kind = "outside"\ntensors = [{ name = "w", shape = [2, 3] }, { name = "b", shape = [] }]\n'


def agreed(task: str, model: str, training: str = STEPS, privacy: str = NONE) -> Manifest:
    return from_toml(
        f'name = "t"\nissuers = ["{ISSUER}"]\n[task]\n{task}\n[model]\n{model}\n'
        f"[training]\nrounds = 3\n{training}\n[privacy]\n{privacy}\n"
    )


def test_a_plugin_is_named_with_its_version_and_arguments() -> None:
    manifest = agreed(PLUGIN + 'arguments = { width = 4, rate = 0.5, name = "x", depth = -1 }', SIZED)
    assert manifest.task == PluginTask(
        "plugin",
        "counts",
        "1.0",
        (
            IntegerArgument("integer", "depth", -1),
            TextArgument("text", "name", "x"),
            NumberArgument("number", "rate", 0.5),
            IntegerArgument("integer", "width", 4),
        ),
    )
    assert manifest.task.by_name == {"depth": -1, "name": "x", "rate": 0.5, "width": 4}
    assert manifest.model.parameters(manifest.task.features) == 9
    assert decode_manifest_untrusted(canonical_bytes(manifest)) == manifest


def test_a_plugin_that_was_not_asked_for_its_size_has_no_federation() -> None:
    draft = agreed(PLUGIN, 'kind = "plugin"')
    assert draft.model == PluginModel("plugin", 0, 0)
    with pytest.raises(ManifestError, match=r"model\.size: not known yet"):
        canonical_bytes(draft)


def test_a_loop_outside_says_its_arrays_and_no_steps() -> None:
    manifest = agreed(OUTSIDE, ARRAYS, "", ORGANISATION)
    assert manifest.model == OutsideModel("outside", (Tensor("w", (2, 3)), Tensor("b", ())))
    assert manifest.model.parameters(manifest.task.features) == 7
    outside = agreed(OUTSIDE, ARRAYS, "")
    assert decode_manifest_untrusted(canonical_bytes(outside)) == outside


@pytest.mark.parametrize(
    ("task", "model", "training", "privacy", "field"),
    [
        (PLUGIN, 'kind = "logistic"', STEPS, NONE, "model.kind"),
        (PLUGIN, ARRAYS, STEPS, NONE, "model.kind"),
        (PLUGIN, 'kind = "plugin"\nsize = 25000001\noutputs = 1', STEPS, NONE, "model.size"),
        (PLUGIN, 'kind = "plugin"\nsize = 3', STEPS, NONE, "model.size"),
        (PLUGIN.replace("1.0", "1 0"), SIZED, STEPS, NONE, "task.version"),
        (PLUGIN + "arguments = { a = true }", SIZED, STEPS, NONE, "task.arguments.a"),
        (PLUGIN + "arguments = { A = 1 }", SIZED, STEPS, NONE, "task.arguments"),
        (PLUGIN + "arguments = { a = [1] }", SIZED, STEPS, NONE, "task.arguments.a"),
        (PLUGIN + f"arguments = {{ a = {1 << 54} }}", SIZED, STEPS, NONE, "task.arguments.a"),
        (OUTSIDE, ARRAYS, STEPS, NONE, "training.learning_rate"),
        (OUTSIDE, ARRAYS, "local_steps = 2", NONE, "training.local_steps"),
        (OUTSIDE, ARRAYS, "", ORGANISATION.replace("organisation", "distributed"), "privacy.mode"),
        (OUTSIDE, ARRAYS, "", ORGANISATION.replace("organisation", "local"), "privacy.mode"),
        (OUTSIDE, ARRAYS.replace('"b"', '"w"'), "", NONE, "model.tensors"),
        (OUTSIDE, ARRAYS.replace("2, 3", "2, 0"), "", NONE, "model.tensors.w.shape"),
        (OUTSIDE, ARRAYS.replace("2, 3", "5000, 5001"), "", NONE, "model.tensors"),
        (OUTSIDE, ARRAYS.replace("2, 3", "2, 3, 1, 1, 1, 1, 1, 1, 1"), "", NONE, "model.tensors.w.shape"),
    ],
)
def test_what_is_refused(task: str, model: str, training: str, privacy: str, field: str) -> None:
    with pytest.raises(ManifestError) as caught:
        agreed(task, model, training, privacy)
    assert caught.value.field == field


def test_arguments_are_bounded_and_in_order_whoever_wrote_them() -> None:
    many = tuple(IntegerArgument("integer", f"a{number:03}", 1) for number in range(MAX_ARGUMENTS + 1))
    PluginTask("plugin", "p", "1", many[:-1])
    for wrong in (many, many[1::-1], (many[0], many[0])):
        with pytest.raises(ManifestError, match=r"task\.arguments"):
            PluginTask("plugin", "p", "1", wrong)
