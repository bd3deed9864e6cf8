"""``p2pfl federation create``: what people agreed on, as one file for every member."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from p2pfl.terminal import note

if TYPE_CHECKING:
    from p2pfl.gossip.manifest import Manifest

_LARGE_DELTA = 1e-2
"""Larger ones promise little to anybody, however few the records are."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``p2pfl federation create``."""
    parser.description = (
        "Check a federation's TOML, compute the noise that its epsilon and delta need, write the manifest,"
        " print the federation's id, and say what was agreed on. A manifest never changes: with any other"
        " number in it it is another federation."
    )
    parser.add_argument("file", metavar="FILE.toml", type=Path, help="the agreement, written by people")
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        help="the manifest to write (default: FILE.manifest, beside the TOML)",
    )
    parser.add_argument(
        "--backbone",
        metavar="FILE",
        type=Path,
        help="the safetensors file with the model's frozen layers; every member needs it, too",
    )
    parser.add_argument(
        "--initial",
        metavar="FILE",
        type=Path,
        help="the safetensors file with the values that training starts from, such as `p2pfl export` writes;"
        " every member needs it, too",
    )
    parser.add_argument(
        "--after",
        metavar="MANIFEST",
        type=Path,
        action="append",
        default=[],
        help="an earlier federation of the same members' records: epsilon counts both, so there is more noise"
        " (may be repeated)",
    )


def run(options: argparse.Namespace) -> int:
    """Write the manifest; print its id."""
    from p2pfl.explain import explain
    from p2pfl.gossip.manifest import canonical_bytes
    from p2pfl.gossip.model_layers import Parts
    from p2pfl.node.storage.declared_file import digest_of_file, read_backbone, read_initial
    from p2pfl.node.storage.manifest_file import read_manifest_toml

    files = (options.backbone, options.initial)
    manifest = read_manifest_toml(
        options.file, *("" if file is None else digest_of_file(file) for file in files)
    )
    for file, read in zip(files, (read_backbone, read_initial), strict=True):
        if file is not None and isinstance(manifest.model, Parts):
            read(file, manifest.model, manifest.task.features)
    manifest = _with_noise(_with_plugin(manifest), options.after)
    out: Path = options.out or options.file.with_suffix(".manifest")
    _write_once(out, canonical_bytes(manifest))
    print(manifest.federation_id)
    for line in explain(manifest, sys.stderr):
        note(line)
    delta = manifest.privacy.delta
    if manifest.privacy.mode != "none" and delta > _LARGE_DELTA:
        note(
            f"warning: privacy.delta {delta:g} lets one record in {1 / delta:.0f} be given away whole;"
            " it should be far below one in the number of records"
        )
    note(
        f"written to {out}: give it to every member, then each runs: p2pfl node --config node.toml"
        f" --federation {out}"
    )
    return 0


def _with_plugin(manifest: "Manifest") -> "Manifest":
    """``manifest`` with the size of its plug-in's model; if it brings its own, that must be right."""
    from p2pfl.gossip.manifest import ManifestError, PluginTask
    from p2pfl.node.errors import ManifestProblem

    if not isinstance(manifest.task, PluginTask):
        return manifest
    note(f"asking plug-in {manifest.task.name} for its model")
    from p2pfl.node.training.own_models import asked, own_model

    own_model(manifest)
    try:
        return replace(manifest, model=asked(manifest.task))
    except ManifestError as error:
        raise ManifestProblem(f"plug-in {manifest.task.name}: {error}", "give it a smaller model") from None


def _with_noise(manifest: "Manifest", after: Sequence[Path]) -> "Manifest":
    """``manifest`` with the noise that its promise needs ``after`` other federations; if it brings its own,
    that must be enough.
    """
    from p2pfl.node.errors import ManifestProblem
    from p2pfl.node.outlook import planned_mechanisms
    from p2pfl.node.privacy import calibrated
    from p2pfl.node.storage.carried import require_countable
    from p2pfl.node.storage.manifest_file import read_manifest
    from p2pfl.planning import check_promise

    privacy, earlier = manifest.privacy, [read_manifest(path) for path in after]
    before = []
    for one in earlier:
        require_countable(manifest, one, planned := planned_mechanisms(one))
        before += planned
    if manifest.calibrated:
        check_promise(manifest, before)
        return manifest
    given = (
        privacy.noise_multiplier,
        privacy.statistics_noise_multiplier,
        privacy.evaluation_noise_multiplier,
    )
    if any(given):
        what = "privacy.noise_multiplier: some of the noise multipliers are given, but not all"
        raise ManifestProblem(what, "leave all of them out: they are computed from epsilon and delta")
    note("computing the noise")
    return calibrated(manifest, before)


def _write_once(path: Path, data: bytes) -> None:
    """Write the manifest, unless ``path`` holds another one: nodes may be running by it."""
    from p2pfl.node.errors import ManifestProblem
    from p2pfl.node.storage.atomic_file import write_atomically

    try:
        write_atomically(path, data, 0o644, exclusive=True)
    except FileExistsError:
        if path.is_file() and path.read_bytes() == data:
            return
        what = f"{path} exists already, and is not this manifest"
        raise ManifestProblem(
            what, "choose another name with --out, or remove the old one if no node runs by it"
        ) from None
