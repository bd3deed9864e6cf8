"""Manifests on disk: what an operator hands to a command, told apart from what was handed over by mistake."""

from pathlib import Path

from p2pfl.crypto.identity import holds_secret_key
from p2pfl.gossip.manifest import MAX_BYTES, Manifest, ManifestError, decode_manifest_untrusted, from_toml
from p2pfl.node.errors import ManifestProblem, reason_of
from p2pfl.node.storage.regular_file import regular_only

_TICKET = b"p2pfl-ticket-"


def read_manifest(path: Path) -> Manifest:
    """The manifest in ``path``, a file that `p2pfl federation create` wrote. Raises ManifestProblem."""
    data = _read(path)
    try:
        return decode_manifest_untrusted(data)
    except ManifestError as error:
        if _is_toml(data):
            hint = f"make the manifest of it first: p2pfl federation create {path}"
            raise ManifestProblem(
                f"{path}: this is the TOML of a federation, not its manifest", hint
            ) from None
        hint = "ask the organiser for the file that `p2pfl federation create` wrote, and copy it as binary"
        raise ManifestProblem(f"{path}: {error}", hint) from None


def read_manifest_toml(path: Path, backbone: str = "", initial: str = "") -> Manifest:
    """The manifest that people wrote in ``path``; its noise may not be computed yet. ``backbone``,
    ``initial``: the digests of its model's, if they are not written there.

    Raises ManifestProblem.
    """
    data = _read(path)
    try:
        return from_toml(data.decode("utf-8"), backbone, initial)
    except UnicodeDecodeError:
        hint = "give the TOML file; `p2pfl federation show` reads .manifest files"
        raise ManifestProblem(f"{path}: not a text file in UTF-8", hint) from None
    except ManifestError as error:
        hint = f"correct {error.field or 'the file'} and run the command again"
        raise ManifestProblem(f"{path}: {error}", hint) from None


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb", opener=regular_only) as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        hint = "check the path of the federation's file; an id would be 64 hexadecimal digits"
        raise ManifestProblem(f"{path}: no such file", hint) from None
    except OSError as error:
        raise ManifestProblem(
            f"{path}: cannot be read: {reason_of(error)}", "check the path and its permissions"
        ) from None
    if holds_secret_key(data.decode("ascii", "replace")):
        hint = "keep it to yourself; the manifest is the file that `p2pfl federation create` wrote"
        raise ManifestProblem(f"{path}: this is a secret key, not a manifest", hint)
    if data.lstrip().startswith(_TICKET):
        raise ManifestProblem(
            f"{path}: this is a ticket, not a manifest", "name it under `ticket` in node.toml"
        )
    if len(data) > MAX_BYTES:
        raise ManifestProblem(
            f"{path}: larger than {MAX_BYTES} bytes", "this is not a manifest; check the path"
        )
    return data


def _is_toml(data: bytes) -> bool:
    try:
        from_toml(data.decode("utf-8"))
    except (UnicodeDecodeError, ManifestError):
        return b"[task]" in data
    return True
