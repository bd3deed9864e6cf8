"""docs/transport.md against the code: the values that it names, and the tests that it names."""

import ast
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from p2pfl.node import examination
from p2pfl.node.daemon import LIMITS
from p2pfl.node.finding import dialback
from p2pfl.node.hardened import allowance, guard, host, tcp, yamux, yamux_stream
from p2pfl.node.transport import kademlia, network, open_host, reception, relay, rendezvous, session, types

HERE = Path(__file__).parent
PAGE = (HERE.parents[1] / "docs" / "transport.md").read_text(encoding="utf-8")
UNITS = {"KiB": 1 << 10, "MiB": 1 << 20}
MODULES = (
    dialback,
    examination,
    network,
    kademlia,
    open_host,
    reception,
    relay,
    rendezvous,
    session,
    types,
    allowance,
    guard,
    host,
    tcp,
    yamux,
    yamux_stream,
)
NAMED = re.findall(r"`([A-Za-z_.]+)` (\d+)(?: (KiB|MiB))?", PAGE)
CELLS = [row.split("|") for row in re.findall(r"^\|(.*)\|$", PAGE, re.MULTILINE)]


def constants() -> Mapping[str, float]:
    """What the modules define, and the daemon's limits."""
    found = {f"Limits.{name}": getattr(LIMITS, name) for name in LIMITS.__slots__}
    for module in MODULES:
        found |= {name: value for name, value in vars(module).items() if isinstance(value, int | float)}
    return found


@pytest.mark.parametrize(("name", "value", "unit"), sorted(set(NAMED)))
def test_a_value_is_what_the_code_says(name: str, value: str, unit: str) -> None:
    assert constants()[name] == int(value) * UNITS.get(unit, 1)


def test_every_limit_is_on_the_page() -> None:
    assert {f"Limits.{name}" for name in LIMITS.__slots__} <= {name for name, _, _ in NAMED}


def test_every_row_names_tests_that_exist() -> None:
    defined = {
        node.name
        for file in HERE.glob("test_transport*.py")
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }
    rows = [cells for cells in CELLS if set(cells[-1].strip()) - {"-"} and cells[-1].strip() != "test"]
    assert len(rows) > 40
    for cells in rows:
        tests = re.findall(r"`(test_\w+)`", cells[-1])
        assert tests, cells[0]
        assert set(tests) <= defined, cells[0]
