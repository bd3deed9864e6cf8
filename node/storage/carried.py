"""What a ledger takes along into another federation, and where it went on to.

The records of an organisation pay for everything they are ever used for. A federation ends, and another one
goes on with its model and the same records: so the node's new ledger begins with what the old one holds, and
the old one says that it is continued elsewhere, after which no node runs on it any more.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from p2pfl.gossip.canonical import pack, unpack_untrusted
from p2pfl.gossip.manifest import Manifest
from p2pfl.node.accountant import Mechanism
from p2pfl.node.errors import PrivacyError, StorageError

MOST_BYTES: Final = 1 << 20
"""Of all that a ledger takes along: thousands of different releases."""


@dataclass(frozen=True, slots=True)
class Carried:
    """What was contributed to an earlier federation: its digest, name and mode, and the releases that were
    charged, in no order. None were in mode ``none``, and yet the records were used.
    """

    federation: bytes
    name: str
    mode: str
    mechanisms: tuple[Mechanism, ...]

    @classmethod
    def of(cls, manifest: Manifest, mechanisms: Iterable[Mechanism]) -> "Carried":
        """These ``mechanisms``, of ``manifest``."""
        return cls(manifest.digest, manifest.name, manifest.privacy.mode, tuple(mechanisms))

    def to_canonical(self) -> object:
        """What :func:`canonical` writes of one."""
        releases = [mechanism.to_canonical() for mechanism in self.mechanisms]
        return [self.federation, self.name, self.mode, releases]


@dataclass(frozen=True, slots=True)
class Successor:
    """Where a ledger is continued: the federation's digest, and the node's directory as it was called.

    ``made``: the random name, beside ``directory``, that the one directory with the one ledger has until it
    is called so. Who finds it there may give it its name; nobody may make another.
    """

    federation: bytes
    directory: str
    made: str

    def to_bytes(self) -> bytes:
        """As in the journal."""
        return pack([self.federation, self.directory, self.made])

    @classmethod
    def from_bytes(cls, body: bytes) -> "Successor":
        """The inverse. Raises ValueError."""
        match unpack_untrusted(body, MOST_BYTES):
            case [bytes(federation), str(directory), str(made)]:
                return cls(federation, directory, made)
        raise ValueError("not a successor")


def summed(mechanisms: Iterable[Mechanism]) -> tuple[Mechanism, ...]:
    """The same releases, those that differ in their count only as one."""
    counts: dict[Mechanism, int] = {}
    for mechanism in mechanisms:
        one = replace(mechanism, count=1)
        counts[one] = counts.get(one, 0) + mechanism.count
    return tuple(replace(one, count=count) for one, count in counts.items())


def require_countable(manifest: Manifest, earlier: Manifest, released: Iterable[Mechanism]) -> None:
    """Raises PrivacyError unless one epsilon can count what ``manifest`` will release and what was
    ``released`` about the same records by the end of ``earlier``, which were used there.
    """
    require_all_countable(manifest, [Carried.of(earlier, released)])


def require_all_countable(manifest: Manifest, carried: Iterable[Carried]) -> None:
    """:func:`require_countable`, for all that a ledger takes along into ``manifest``."""
    mode = manifest.privacy.mode
    if mode == "none":
        return
    for earlier in carried:
        if earlier.mode == "none":
            what = f"privacy.mode: {earlier.name} promised nothing, so no epsilon counts what it released"
            raise PrivacyError(what, 'only a federation of mode "none" can go on from there')
        if any((one.subject == "organisation") != (mode == "organisation") for one in earlier.mechanisms):
            what = f'privacy.mode: "{mode}" does not hide the same as the "{earlier.mode}" of {earlier.name}'
            hint = "one epsilon cannot count records and organisations together: keep the kind of mode"
            raise PrivacyError(what, hint)


def canonical(carried: Sequence[Carried]) -> bytes:
    """One row of the journal for all: there is no moment in which only a part is there. Raises StorageError
    if it would be too large.
    """
    body = pack([one.to_canonical() for one in carried])
    if len(body) > MOST_BYTES:
        hint = "begin with a new identity, and add what this ledger says by hand"
        raise StorageError("the ledger has too many different releases to take it along", hint)
    return body


def parsed(body: bytes) -> list[Carried]:
    """The inverse of :func:`canonical`. Raises ValueError."""
    fields = unpack_untrusted(body, MOST_BYTES)
    if not isinstance(fields, list):
        raise ValueError("not what was carried over")
    return [_one(field) for field in fields]


def _one(field: object) -> Carried:
    match field:
        case [bytes(federation), str(name), str(mode), list(mechanisms)]:
            return Carried(federation, name, mode, tuple(map(Mechanism.from_canonical, mechanisms)))
    raise ValueError("not what was carried over")
