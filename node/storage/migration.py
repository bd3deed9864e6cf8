"""From the format of an older p2pfl to today's: forwards only, in one transaction, with a copy of before.

A directory of format 1 has no receipts: its rounds are rows ``round`` of the journal, which stay as they are,
and receipts begin with the first round after it.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from p2pfl.node.storage.database import Database

log = logging.getLogger(__name__)

VERSION: Final = 2
"""The format that this p2pfl writes."""
STEPS: Final[Mapping[int, Sequence[str]]] = {1: ()}
"""What turns a format into the next one: SQL statements. To format 2: nothing; it adds rows of new kinds."""


def migrate(database: Database, found: int) -> None:
    """Bring ``database``, which is whole, from format ``found`` to today's, all of it or nothing.

    Beside it stays a copy of before, unless there is one. Raises StorageError.
    """
    copy = copy_of(database.path, found)
    if not copy.exists():
        database.copy_to(copy)
    with database.transaction():
        for step in range(found, VERSION):
            for statement in STEPS[step]:
                database.execute(statement)
        database.set_value("version", str(VERSION).encode())
    log.warning(
        "%s is now in format %d; %s is as it was before, for the older p2pfl: remove it after the first"
        " round, for whoever goes back to it forgets what was spent since",
        database.path,
        VERSION,
        copy.name,
    )


def copy_of(path: Path, version: int) -> Path:
    """Where the copy of format ``version`` is kept."""
    return path.with_name(f"{path.name}.format-{version}")
