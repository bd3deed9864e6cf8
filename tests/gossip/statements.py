"""All that was said in a simulation, looked through for contradictions."""

from collections.abc import Iterable

from p2pfl.crypto.identity import PeerId
from p2pfl.gossip.evidence import _KINDS, _statement, without_payload
from p2pfl.gossip.wire import Message


def contradicted(messages: Iterable[Message]) -> set[PeerId]:
    """Whoever signed two of ``messages`` that contradict each other."""
    said: dict[tuple[PeerId, str, bytes], set[bytes]] = {}
    for wire in {without_payload(message) for message in messages if message.TAG in _KINDS}:
        found = _statement(wire)
        said.setdefault((found.author, found.tag, found.place), set()).add(found.bound)
    return {author for (author, _, _), things in said.items() if len(things) > 1}
