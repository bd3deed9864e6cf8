"""What a node tells its operator: one JSON file, replaced whole after every change, without a secret in it.

``p2pfl demo`` draws its progress from these files, and anything else that watches a node may.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from p2pfl.node.atomic_file import write_atomically
from p2pfl.node.errors import StorageError, reason_of

FILE = "status.json"


@dataclass
class Status:
    """The node as its operator sees it. Numbers are since the directory was made, except bytes: since this
    start. ``evaluations``: the federation's, oldest first, each with its ``round``, how many ``members`` are
    in the sum, and, if it counts, its figures; ``evaluation`` is the last that does. ``ended``: why it has.
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

    def write(self, directory: Path) -> None:
        """Replace the status file in ``directory``."""
        text = json.dumps(asdict(self), indent=1, sort_keys=True, allow_nan=False)
        write_atomically(directory / FILE, text.encode(), 0o644)


def read_status(directory: Path) -> Status:
    """What the node in ``directory`` last said. Raises StorageError unless that is there, and is that."""
    path, again = directory / FILE, "start the node: it writes this file anew"
    try:
        return Status(**json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise StorageError(f"cannot read {path}: {reason_of(error)}", again) from None
    except (ValueError, TypeError):
        raise StorageError(f"{path} is not what this p2pfl writes there", again) from None
