"""What two nodes must have alike, told in the greeting so that a difference is named, and not met in a round.

The federation's id covers the whole manifest, but says only *that* two manifests differ. So a greeting names
every part of the manifest with a short digest, and what the manifest does not cover: the code of a plug-in,
and, to help people, the version of p2pfl. Which releases of numpy or torch two nodes use need not agree: sums
are taken in integers, and everything computed from them is specified to the bit.
"""

import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points, version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from p2pfl.crypto import labels
from p2pfl.gossip.canonical import pack
from p2pfl.gossip.manifest import Manifest, PluginTask
from p2pfl.gossip.records import plain

SOFTWARE: Final = "p2pfl"
"""The term that need not agree."""
PLUGIN: Final = "plug-in code"
MAX_TERMS: Final = 32
MAX_NAME: Final = 32
MAX_VALUE: Final = 64
MAX_TERMS_BYTES: Final = 2048
"""Of all terms, as they are packed."""
_DIGITS: Final = 16
_MOST_FILES: Final = 2000
_GROUP: Final = "p2pfl.tasks"

Terms = Mapping[str, str]


def terms_of(manifest: Manifest | None) -> Terms:
    """What this node tells others; of a manifest that it does not have yet nothing."""
    found = {SOFTWARE: _version()}
    if manifest is None:
        return found
    for part, value in plain(manifest).items():
        digest = hashlib.sha256(labels.TERM + b"\0" + pack(value)).hexdigest()
        found[part] = digest[:_DIGITS]
    if isinstance(manifest.task, PluginTask):
        found[PLUGIN] = _code_of(manifest.task.name)
    return found


def read_terms(fields: object) -> Terms:
    """What a peer sent. Raises ValueError for anything but a few short texts."""
    if not isinstance(fields, dict) or len(fields) > MAX_TERMS:
        raise ValueError("terms must be a short map")
    for name, value in fields.items():
        if not (_is_text(name, MAX_NAME) and _is_text(value, MAX_VALUE)):
            raise ValueError("a term is not a short text")
    return fields


def difference(theirs: Terms, ours: Terms) -> str:
    """What is not alike, for a person; empty if all is, as far as both say."""
    differing = [name for name in sorted({*theirs} & {*ours} - {SOFTWARE}) if theirs[name] != ours[name]]
    parts = ", ".join(name for name in differing if name != PLUGIN)
    said = [f"the manifests differ in {parts}"] if parts else []
    if PLUGIN in differing:
        which = f"yours {theirs[PLUGIN]}, here {ours[PLUGIN]}"
        said.append(f"the code of the plug-in is another ({which}): install the same")
    return "; ".join(said)


def software(terms: Terms) -> str:
    """ " (p2pfl 0.1.0)", for what is said about versions; empty if that is not known."""
    return f" (p2pfl {terms[SOFTWARE]})" if SOFTWARE in terms else ""


def _is_text(value: object, most: int) -> bool:
    return isinstance(value, str) and 0 < len(value) <= most and value.isascii() and value.isprintable()


@cache
def _version() -> str:
    return version("p2pfl-node")[:MAX_VALUE]


@cache
def _code_of(plugin: str) -> str:
    """A digest of the Python files of the package that registers ``plugin``; "none" without exactly one."""
    entries = tuple(entry_points(group=_GROUP, name=plugin))
    spec = find_spec(entries[0].module.partition(".")[0]) if len(entries) == 1 else None
    if spec is None or spec.origin is None:
        return "none"
    origin = Path(spec.origin)
    root = origin.parent if spec.submodule_search_locations else origin
    files = sorted(root.rglob("*.py"))[:_MOST_FILES] if root.is_dir() else [root]
    hashed = hashlib.sha256(labels.TERM + b"\0")
    for file in files:
        hashed.update(pack([str(file.relative_to(origin.parent)), file.read_bytes()]))
    return hashed.hexdigest()[:_DIGITS]
