"""How good the model of `p2pfl personalise` is, and the shared one it began with, as its file says."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from p2pfl.node.storage.own_file import PERSONAL, metadata_of

FIGURES: Final = "figures"
"""Under which the metadata of the file has them, as JSON."""


@dataclass(frozen=True, slots=True)
class PersonalFigures:
    """Of the ``shared`` model of ``round`` and the ``personal`` one, fitted to so many ``records``, on the
    held-out records; None without any.
    """

    shared: Mapping[str, float] | None
    personal: Mapping[str, float] | None
    round: int | None
    records: int


def personal_figures(directory: Path) -> PersonalFigures | None:
    """Of the personal model in the state ``directory``; None if there is none, or its file does not say."""
    try:
        found = metadata_of(directory / PERSONAL).get(FIGURES)
        return PersonalFigures(**json.loads(found)) if isinstance(found, str) else None
    except (OSError, ValueError, TypeError):
        return None
