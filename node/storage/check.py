"""Everything about a node's directory that can be checked without a network, one finding a line.

`p2pfl node --check` shows it: the node may be running meanwhile, and nothing is changed. What comes later is
checked although something before it is wrong, as far as that can be.
"""

import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from p2pfl.crypto.identity import Identity, PeerId
from p2pfl.gossip.manifest import Manifest
from p2pfl.node.config import NodeConfig
from p2pfl.node.errors import NetworkError, StorageError, UserError
from p2pfl.node.membership.admission import FederationAdmission
from p2pfl.node.membership.joining import known_federation
from p2pfl.node.membership.network_key import read_key
from p2pfl.node.membership.rotation import settled_identity
from p2pfl.node.monitoring.status import FILE as STATUS
from p2pfl.node.monitoring.status import read_status
from p2pfl.node.monitoring.status_server import read_token
from p2pfl.node.start import APART, check_files, load_records, require_ledger, require_same_share
from p2pfl.node.storage.database import DATABASE, Database
from p2pfl.node.storage.migration import VERSION
from p2pfl.node.storage.store import Store

_PRIVATE_FILES: Final = ("p2pfl.sqlite*", "private.safetensors", "personal.safetensors")
_ROOM: Final = 64 << 20
_MODELS: Final = 4
"""What must be free: so many models, and _ROOM for the journal and the log of the database."""
_DAY: Final = 86_400


@dataclass(frozen=True, slots=True)
class Checked:
    """``name`` was checked: ``said`` is what was found, or is wrong or in doubt, with what to do about it as
    ``hint`` and the exit status that it is worth; 0 if nothing is wrong.
    """

    name: str
    said: str
    hint: str = ""
    exit_code: int = 0

    @property
    def fine(self) -> bool:
        return self.exit_code == 0

    def as_dict(self) -> Mapping[str, object]:
        return {
            "check": self.name,
            "fine": self.fine,
            "said": self.said,
            "hint": self.hint,
            "exit_code": self.exit_code,
        }


def check_directory(config: NodeConfig) -> Iterator[Checked]:
    """Look at everything that ``config`` names."""
    with ExitStack() as stack:
        look = _Look(config, stack)
        for name in _CHECKS:
            yield look.at(name)


class _Look:
    """What was opened so far."""

    def __init__(self, config: NodeConfig, stack: ExitStack) -> None:
        self.config = config
        self._stack = stack
        self._identity: Identity | None = None
        self._store: Store | None = None
        self._manifest: Manifest | None = None
        self._federation = b""

    def at(self, name: str) -> Checked:
        try:
            found = _CHECKS[name](self)
            return Checked(name, *((found,) if isinstance(found, str) else found))
        except UserError as error:
            return Checked(name, error.what, error.hint, int(error.exit_code))

    def identity(self) -> str:
        self._identity = settled_identity(self.config.identity)
        return f"{self._identity.peer_id}"

    def modes(self) -> str:
        directory = self.config.state
        files = [path for pattern in _PRIVATE_FILES for path in directory.glob(pattern)]
        open_ = [path for path in files if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)]
        if open_:
            what = f"{open_[0]} is open to others on this machine"
            raise StorageError(what, f"chmod 600 {' '.join(map(str, open_))}")
        if self.config.status_token_file is not None:
            read_token(self.config.status_token_file)
        if self.config.network_key is not None:
            read_key(self.config.network_key)
        return "only their owner can read what is private"

    def pages(self) -> str:
        require_ledger(self.config.state)
        if not (self.config.state / DATABASE).exists():
            return "no database yet: the node never ran here"
        database = Database.open(self.config.state / DATABASE, readonly=True)
        self._stack.callback(database.close)
        database.check_pages()
        return f"every page of {DATABASE} is sound"

    def journal(self) -> str:
        if self._identity is None:
            return _unseen("the key")
        if not (self.config.state / DATABASE).exists():
            return "no journal yet"
        self._store = self._stack.enter_context(Store.open(self.config.state, self._identity, readonly=True))
        successor = self._store.successor()
        if successor is not None:
            what = f"the ledger goes on in federation {successor.federation.hex()[:12]}…"
            raise StorageError(what, f"run the node in {successor.directory}")
        last = self._store.last_contribution()
        charged = f"charged up to round {last}" if last >= 0 else "nothing charged"
        return f"unbroken, bound to its federation, {charged}; format {VERSION} is this p2pfl's"

    def receipts(self) -> str:
        if self._store is None:
            return _unseen("a journal")
        receipts = self._store.receipts()
        wrong = next((false for kept in receipts if (false := kept.false())), "")
        if wrong:
            raise StorageError(wrong, "restore a backup made after this node's last round")
        completed = [kept for kept in receipts if kept.receipt.completed]
        confirmed = sum(kept.confirmed for kept in completed)
        return (
            f"{len(receipts)}, all signed; {confirmed} of {len(completed)} sums confirmed by every survivor"
        )

    def model(self) -> str:
        released = None if self._store is None else self._store.released()
        return "none yet" if released is None else f"that of round {released.round}, as it was released"

    def federation(self) -> str:
        if self._store is None and (self.config.state / DATABASE).exists():
            return _unseen("a journal")
        self._federation, self._manifest = known_federation(self.config, self._store)
        return f"{self._federation.hex()[:12]}…" + (
            "" if self._manifest else ", whose manifest is not here yet"
        )

    def ticket(self) -> str:
        if self._identity is None or not self._federation:
            return _unseen("a federation")
        self._require_not_excluded(self._identity.peer_id)
        admission = FederationAdmission(
            self._federation,
            self._identity.peer_id,
            self.config.ticket,
            self._manifest,
            successions=() if self._store is None else self._store.successions(),
        )
        if self._manifest is None:
            return "for this node and this federation; what it is worth, the manifest says"
        if admission.expires is None:
            return "this node's place does not expire"
        return f"{(admission.expires - time.time()) / _DAY:.1f} days left"

    def _require_not_excluded(self, own: PeerId) -> None:
        grounds = [] if self._store is None else [one.ground for one in self._store.exclusions()]
        why = next((ground.why for ground in grounds if ground.against == own), "")
        if why:
            raise NetworkError(f"this node is excluded: {why}", "docs/handbook.md, This node is excluded")

    def data(self) -> str | tuple[str, str]:
        if self._store is not None:
            require_same_share(self.config, self._store)
        if self._manifest is None:
            check_files(self.config)
            return _unseen("a manifest")
        records = load_records(self.config, self._manifest)
        return (f"{records.said}; {records.doubt}", APART) if records.doubt else records.said

    def disk(self) -> str:
        directory = _existing(self.config.state)
        free = shutil.disk_usage(directory).free
        model = None if self._store is None else self._store.model_path
        needed = _ROOM + _MODELS * (model.stat().st_size if model and model.is_file() else 0)
        if free < needed:
            what = f"{free >> 20} MiB are free for {self.config.state}, {needed >> 20} MiB are needed"
            raise StorageError(what, "free some space")
        return f"{free >> 20} MiB free"

    def status(self) -> str:
        if self._store is None:
            return _unseen("a journal")
        if not (self.config.state / STATUS).exists():
            return "none yet: the node writes it when it starts"
        return f"phase {read_status(self.config.state).phase}"


_CHECKS: Final[Mapping[str, Callable[[_Look], str | tuple[str, str]]]] = {
    "identity": _Look.identity,
    "file modes": _Look.modes,
    "database": _Look.pages,
    "journal": _Look.journal,
    "receipts": _Look.receipts,
    "model": _Look.model,
    "federation": _Look.federation,
    "ticket": _Look.ticket,
    "data": _Look.data,
    "disk": _Look.disk,
    "status file": _Look.status,
}


def _unseen(lacking: str) -> str:
    return f"not checked without {lacking}"


def _existing(path: Path) -> Path:
    return path if path.exists() or path == path.parent else _existing(path.parent)
