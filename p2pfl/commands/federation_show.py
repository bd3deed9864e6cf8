"""``p2pfl federation show``: a manifest in words."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``p2pfl federation show``."""
    parser.description = "Check a manifest and say in words what its members have agreed on."
    parser.add_argument("file", metavar="FILE", type=Path, help="the manifest")
    parser.add_argument("--json", action="store_true", help="print everything in it as JSON")


def run(options: argparse.Namespace) -> int:
    """Print the manifest."""
    from p2pfl.explain import explain
    from p2pfl.node.storage.manifest_file import read_manifest

    manifest = read_manifest(options.file)
    if options.json:
        print(json.dumps({"id": manifest.federation_id, **asdict(manifest)}, indent=1))
        return 0
    print(f"federation {manifest.federation_id}")
    for line in explain(manifest, sys.stdout):
        print(line)
    return 0
