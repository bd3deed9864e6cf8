"""``p2pfl topology list``: what topologies there are."""

import argparse
import json
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``p2pfl topology list``."""
    parser.description = "Every topology by name, with its parameters and what it is good for."
    parser.add_argument("--json", action="store_true", help="print JSON, with formula and paper")


def run(options: argparse.Namespace) -> int:
    """Print the list."""
    from p2pfl.tables import aligned
    from p2pfl.topologies.files import SUFFIXES, examples
    from p2pfl.topologies.registry import entries

    known = entries()
    if options.json:
        families = [_row(known[name]) for name in known]
        print(json.dumps({"families": families, "files": [*examples()]}, indent=1, ensure_ascii=False))
        return 0
    table = [["name", "parameters", "good for"]]
    for name, entry in known.items():
        parameters = ", ".join(f"{key}={_shown(value)}" for key, value in entry.parameters.items())
        table.append([name + "*" * entry.in_manifests, parameters, entry.good_for])
    for line in aligned(table):
        print(line)
    print("\n* may be named in a manifest; the others are for simulation")
    print(
        f"graphs that come along: {', '.join(examples())}; yours: {', '.join(SUFFIXES)}, my_file.py:function"
    )
    return 0


def _row(entry: Any) -> dict[str, object]:
    return {
        "name": entry.name,
        "summary": entry.summary,
        "kind": entry.kind,
        "parameters": {name: _plain(value) for name, value in entry.parameters.items()},
        "formula": entry.formula,
        "paper": entry.paper,
        "good_for": entry.good_for,
        "in_manifests": entry.in_manifests,
    }


def _plain(value: object) -> object:
    """Of a default, what JSON can say."""
    return value if isinstance(value, int | float | str | bool | None) else str(value)


def _shown(value: object) -> str:
    return "…" if value is None else str(value)
