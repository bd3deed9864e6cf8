"""Which federation this node is in, and how it comes by a manifest that only others have.

The federation id is the manifest's digest, so a manifest from anybody is either the right one or refused.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from p2pfl.crypto.identity import PeerId
from p2pfl.gossip.manifest import MAX_BYTES, Manifest, ManifestError, decode_manifest_untrusted, digest_of
from p2pfl.node.config import NodeConfig
from p2pfl.node.errors import ConfigError, NetworkError
from p2pfl.node.storage.manifest_file import read_manifest
from p2pfl.node.storage.store import Store

if TYPE_CHECKING:  # libp2p takes more than half a second to import, and the operator's mistakes come first
    from p2pfl.node.transport.network import Transport

log = logging.getLogger(__name__)

JOIN_SECONDS = 60.0
_ANSWER_SECONDS = 10.0
_AGAIN_SECONDS = 0.2


def known_federation(config: NodeConfig, store: Store | None) -> tuple[bytes, Manifest | None]:
    """The digest of the federation that config and state directory name, and its manifest if either has it.
    ``store`` is None where there is no state yet.

    Raises ConfigError if they name none, or two; ManifestProblem.
    """
    stored, wanted = None if store is None else store.manifest(), config.federation
    given = read_manifest(wanted) if isinstance(wanted, Path) else None
    manifest = given or stored
    if isinstance(wanted, str):
        named = bytes.fromhex(wanted)
    elif manifest is not None:
        named = manifest.digest
    else:
        raise ConfigError(
            "federation.id", "not set", "give --federation with the manifest file, or the id and --bootstrap"
        )
    if stored is not None and stored.digest != named:
        raise ConfigError(
            "federation.id",
            f"{config.state} holds the state of federation {stored.federation_id[:12]}…,"
            f" not of {named.hex()[:12]}…",
            "give every federation a state directory of its own",
        )
    return named, manifest


async def obtain_manifest(
    transport: "Transport", federation: bytes, bootstrap: Sequence[str], has_place: Callable[[PeerId], bool]
) -> Manifest:
    """The manifest of ``federation``, from a member that has admitted us. Who ``has_place`` no longer, as
    others came, is hung up on meanwhile.

    Raises NetworkError, naming the ``bootstrap`` addresses, if no member could be reached or would let us in
    within JOIN_SECONDS.
    """
    found: list[Manifest] = []
    asked: set[PeerId] = set()

    async def ask(peer: PeerId) -> None:
        manifest = await _ask(transport, peer, federation)
        if manifest is not None:
            found.append(manifest)
            nursery.cancel_scope.cancel()
        await trio.sleep(_AGAIN_SECONDS)
        asked.discard(peer)

    async def ask_everybody() -> None:
        while True:  # all at once: strangers, who may be let in before there is a manifest, may stall
            for peer in transport.connected - asked:
                if has_place(peer):
                    asked.add(peer)
                    nursery.start_soon(ask, peer)
                else:
                    nursery.start_soon(transport.disconnect, peer, "it gave its place to others")
            await trio.sleep(_AGAIN_SECONDS)

    with trio.move_on_after(JOIN_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_everybody)
    if found:
        return found[0]
    raise NetworkError(
        f"no member of federation {federation.hex()[:12]}… let this node in within {JOIN_SECONDS:g} s"
        f" (tried {', '.join(bootstrap)})",
        "check the address, that the port is open, and that the ticket is for this node and this federation",
    )


async def _ask(transport: "Transport", peer: PeerId, federation: bytes) -> Manifest | None:
    try:
        data = await transport.request(peer, "manifest", b"", max_response=MAX_BYTES, seconds=_ANSWER_SECONDS)
        if digest_of(data) == federation:
            log.info("manifest received from %s", peer)
            return decode_manifest_untrusted(data)
        log.warning("peer %s sent a manifest that is not the one asked for", peer)
    except (NetworkError, ManifestError) as error:
        log.warning("no manifest from %s: %s", peer, error)
    return None
