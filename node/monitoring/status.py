"""What a node tells its operator: one JSON file, replaced whole after every change, without a secret in it.

``p2pfl demo`` draws its progress from these files, and anything else that watches a node may. A node that
runs gives the same over HTTP, as of now and with what its process uses; ``p2pfl status`` asks there first.
"""

import http.client
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from p2pfl.node.config import Endpoint
from p2pfl.node.errors import StorageError, reason_of
from p2pfl.node.storage.atomic_file import write_atomically
from p2pfl.node.storage.regular_file import regular_only

FILE = "status.json"
PHASES = ("starting", "waiting", "learning", "done")
_MOST_BYTES = 16 << 20
_ASK_SECONDS = 6.0
"""A page is answered within 5, or not at all."""


@dataclass
class Status:
    """The node as its operator sees it. Numbers are since the directory was made, except bytes: since this
    start. ``evaluations``: the federation's, oldest first, each with its ``round``, how many ``members`` are
    in the sum, and, if it counts, its figures; ``evaluation`` is the last that does. ``ended``: why it has.
    ``reachability``: what a member last said of it: its ``peer``, where it ``observed`` this node, which
    addresses it ``reached``, and why others ``failed``; empty while nobody was asked.
    ``status_at``: [host, port] of the status pages, empty if they are off; ``process``: what the node uses of
    its machine, filled in only there.
    ``ticket_expires``: seconds since 1970, None if this node needs no ticket.
    ``epsilon_at_the_end``: if no round to come is lost, as reckoned at this start or at the end. After a vote
    to end, ``epsilon``, ``epsilon_rdp`` and ``ladder`` are of the planned end too.
    """

    peer: str
    federation: str
    phase: str = "starting"
    addresses: list[str] = field(default_factory=list)
    epoch: int = -1
    round: int = -1
    stage: str = ""
    idle: str = ""
    rounds_total: int = 0
    training_completed: int = 0
    completed: int = 0
    skipped: int = 0
    last_skip: str = ""
    connected: int = 0
    group: list[str] = field(default_factory=list)
    bytes_sent: int = 0
    bytes_received: int = 0
    privacy_mode: str = ""
    epsilon: float | None = None
    epsilon_rdp: float | None = None
    epsilon_budget: float | None = None
    epsilon_at_the_end: float | None = None
    delta: float | None = None
    ladder: list[tuple[int, float | None]] = field(default_factory=list)
    model: str = ""
    evaluations: list[dict[str, float]] = field(default_factory=list)
    evaluation: dict[str, float] = field(default_factory=dict)
    ended: str = ""
    own_evaluation: dict[str, float] = field(default_factory=dict)
    reachability: dict[str, object] = field(default_factory=dict)
    ticket_expires: float | None = None
    status_at: list[str | int] = field(default_factory=list)
    process: dict[str, float] = field(default_factory=dict)
    participation: list[dict[str, object]] = field(default_factory=list)

    def write(self, directory: Path) -> None:
        """Replace the status file in ``directory``."""
        text = json.dumps(asdict(self), indent=1, sort_keys=True, allow_nan=False)
        write_atomically(directory / FILE, text.encode())


def read_status(directory: Path) -> Status:
    """What the node in ``directory`` last said. Raises StorageError unless that is there, and is that."""
    path, again = directory / FILE, "start the node: it writes this file anew"
    try:
        with open(path, encoding="utf-8", opener=regular_only) as file:
            return Status(**json.load(file))
    except OSError as error:
        raise StorageError(f"cannot read {path}: {reason_of(error)}", again) from None
    except (ValueError, TypeError):
        raise StorageError(f"{path} is not what this p2pfl writes there", again) from None


def ask_status(endpoint: Endpoint, token: bytes | None) -> Status | None:
    """What the node that serves its status at ``endpoint`` of this machine says now; None if nothing."""
    found = ask_page(endpoint, token, "/status")
    try:
        return Status(**found) if isinstance(found, dict) else None
    except TypeError:
        return None


def ask_page(endpoint: Endpoint, token: bytes | None, path: str) -> object:
    """The JSON that the status page ``path`` at ``endpoint`` of this machine has; None if there is none."""
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - asked there, not served
    host = everywhere.get(endpoint.host, endpoint.host)
    headers = {} if token is None else {"Authorization": f"Bearer {token.decode('ascii')}"}
    connection = http.client.HTTPConnection(host, endpoint.port, timeout=_ASK_SECONDS)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        text = answer.read(_MOST_BYTES)
        found: object = json.loads(text) if answer.status == 200 else None
        return found
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
