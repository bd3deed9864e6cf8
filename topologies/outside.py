"""A topology from Python code of one's own: ``module:function`` or ``file.py:function``.

Loading runs the code. So this is for what the person at the command line typed themselves; nothing that came
from a manifest, a data file or a peer may ever get here.
"""

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import networkx as nx  # type: ignore[import-untyped]  # ships no type information

from p2pfl.topologies.errors import TopologyError
from p2pfl.topologies.topology import Family


def load(source: str) -> Family:
    """The family that ``source`` names; a graph or a matrix there is a family that is always the same.

    Raises TopologyError if there is no such file, module or name, or if running it fails.
    """
    where, _, name = source.rpartition(":")
    try:
        module = _of_file(Path(where)) if where.endswith(".py") else importlib.import_module(where)
    except TopologyError:
        raise
    except Exception as error:  # code of others may raise anything; the person must hear what
        raise TopologyError(f"{where} cannot be run: {type(error).__name__}: {error}") from error
    found = getattr(module, name, None)
    if found is None:
        raise TopologyError(f"{where} has no {name!r}")
    if callable(found) and not isinstance(found, nx.Graph):
        family: Family = found
        return family
    return lambda nodes, beacon: found


def _of_file(path: Path) -> Any:
    if not path.is_file():
        raise TopologyError(f"no file {path}")
    spec = importlib.util.spec_from_file_location(f"_topology_of_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise TopologyError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
