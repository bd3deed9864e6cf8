"""``p2pfl federation create``: what people agreed on, as one file for every member."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from p2pfl.terminal import note

if TYPE_CHECKING:
    from p2pfl.gossip.manifest import Manifest


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


def run(options: argparse.Namespace) -> int:
    """Write the manifest; print its id."""
    from p2pfl.explain import explain
    from p2pfl.gossip.manifest import canonical_bytes
    from p2pfl.node.manifest_file import read_manifest_toml

    manifest = _with_noise(read_manifest_toml(options.file))
    out: Path = options.out or options.file.with_suffix(".manifest")
    _write_once(out, canonical_bytes(manifest))
    print(manifest.federation_id)
    for line in explain(manifest, sys.stderr):
        note(line)
    note(
        f"written to {out}: give it to every member, then each runs: p2pfl node --config node.toml"
        f" --federation {out}"
    )
    return 0


def _with_noise(manifest: "Manifest") -> "Manifest":
    """``manifest`` with the noise that its promise needs; if it brings its own, that must be enough."""
    from p2pfl.node.errors import ManifestProblem
    from p2pfl.node.privacy import calibrated
    from p2pfl.planning import check_promise

    privacy = manifest.privacy
    if privacy.calibrated:
        check_promise(manifest)
        return manifest
    given = (
        privacy.noise_multiplier,
        privacy.statistics_noise_multiplier,
        privacy.evaluation_noise_multiplier,
    )
    if any(given):
        what = "privacy.noise_multiplier: some of the three noise multipliers are given, but not all"
        raise ManifestProblem(what, "leave all three out: they are computed from epsilon and delta")
    note("computing the noise")
    return calibrated(manifest)


def _write_once(path: Path, data: bytes) -> None:
    """Write the manifest, unless ``path`` holds another one: nodes may be running by it."""
    from p2pfl.node.atomic_file import write_atomically
    from p2pfl.node.errors import ManifestProblem

    try:
        write_atomically(path, data, 0o644, exclusive=True)
    except FileExistsError:
        if path.is_file() and path.read_bytes() == data:
            return
        what = f"{path} exists already, and is not this manifest"
        raise ManifestProblem(
            what, "choose another name with --out, or remove the old one if no node runs by it"
        ) from None
