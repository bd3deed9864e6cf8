"""A topology from Python code of one's own: ``module:function`` or ``file.py:function``.

Loading runs the code. So this is for what the person at the command line typed themselves; nothing that came
from a manifest, a data file or a peer may ever get here.
"""

import importlib
import importlib.util
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import networkx as nx  # type: ignore[import-untyped]  # ships no type information

from p2pfl.topologies.errors import CodeError, TopologyError
from p2pfl.topologies.topology import Family


def load(source: str) -> Family:
    """The family that ``source`` names; a graph or a matrix there is a family that is always the same.

    Raises TopologyError if there is no such file, module or name, and CodeError, now or when it draws, for
    whatever the code raises.
    """
    where, _, name = source.rpartition(":")
    file = Path(where) if where.endswith(".py") else _file_of(where)
    with _explained(where, file):
        module = _of_file(file) if file and where.endswith(".py") else importlib.import_module(where)
    found = getattr(module, name, None)
    if found is None:
        raise TopologyError(f"{where} has no {name!r}")
    return _explaining(found, source, file) if _is_function(found) else lambda nodes, beacon: found


def _of_file(path: Path) -> Any:
    if not path.is_file():
        raise TopologyError(f"no file {path}")
    spec = importlib.util.spec_from_file_location(f"_topology_of_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise TopologyError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _file_of(module: str) -> Path | None:
    with _explained(module, None):
        spec = importlib.util.find_spec(module)
    return Path(spec.origin) if spec and spec.has_location and spec.origin else None


def _is_function(found: Any) -> bool:
    return callable(found) and not isinstance(found, nx.Graph)


def _explaining(function: Callable[..., Any], source: str, file: Path | None) -> Callable[..., Any]:
    """``function``, and the function from the round that it may return, raising CodeError."""

    @wraps(function)
    def explaining(*positional: Any, **named: Any) -> Any:
        with _explained(source, file):
            made = function(*positional, **named)
        return _explaining(made, source, file) if _is_function(made) else made

    return explaining


@contextmanager
def _explained(what: str, file: Path | None) -> Iterator[None]:
    try:
        yield
    except TopologyError:
        raise
    except Exception as error:  # code of others may raise anything; the person must hear what
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise CodeError(f"{what} fails: {said}{_line(error, file)}") from error


def _line(error: Exception, file: Path | None) -> str:
    """Where in ``file`` it happened; a SyntaxError says so itself."""
    if file is None or isinstance(error, SyntaxError):
        return ""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == file.absolute()]
    return f" ({file.name}, line {lines[-1]})" if lines else ""
