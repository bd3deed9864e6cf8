"""A node's directory, opened for reading: what `evaluate`, `predict` and `privacy` look at."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from p2pfl.gossip.manifest import Manifest
from p2pfl.node.config import NodeConfig, load_config
from p2pfl.node.errors import StorageError
from p2pfl.node.storage.identity_file import load_identity
from p2pfl.node.storage.store import Store


@dataclass(frozen=True, slots=True)
class State:
    """What a node that has joined a federation knows."""

    config: NodeConfig
    manifest: Manifest
    store: Store


@contextmanager
def opened_state(config_file: Path, backbone: str | None = None) -> Iterator[State]:
    """The state of the node that ``config_file`` describes; the node may be running meanwhile. ``backbone``:
    the file of the frozen layers, if not the config's.

    Raises UserError if config, identity or state cannot be read, or if the node has not joined yet.
    """
    config = load_config(config_file, os.environ, {"backbone": backbone})
    with Store.open(config.state, load_identity(config.identity), readonly=True) as store:
        manifest = store.manifest()
        if manifest is None:
            hint = f"start it once: p2pfl node --config {config_file}"
            raise StorageError(f"the node in {config.state} has not joined a federation yet", hint)
        yield State(config, manifest, store)
