"""What every part of a manifest is checked with: bounds, and refusals that name the field."""

import math
from collections.abc import Sequence

from p2pfl.gossip.records import FieldError, shown

MAX_TEXT = 128
MAX_MAGNITUDE = 1e12  # of any declared number: far beyond use, and its square is still finite


class ManifestError(FieldError):
    """``field`` of a manifest is wrong, for ``reason``. Both are safe to print, whoever sent the manifest."""


def require(condition: bool, field: str, reason: str) -> None:
    """Raises ManifestError unless ``condition``."""
    if not condition:
        raise ManifestError(field, reason)


def require_text(text: str, field: str) -> None:
    """A name: 1 to MAX_TEXT printable characters without space around."""
    require(0 < len(text) <= MAX_TEXT, field, f"must have 1 to {MAX_TEXT} characters")
    require(
        text.isprintable() and text == text.strip(),
        field,
        f"must be printable, without spaces around: {shown(text)}",
    )


def require_distinct(values: Sequence[str], field: str, most: int) -> None:
    """At most ``most`` entries, none twice."""
    require(len(values) <= most, field, f"has {len(values)} entries, at most {most} are allowed")
    require(len(set(values)) == len(values), field, "names something twice")


def require_range(value: float, field: str, low: float, high: float, *, above: bool = False) -> None:
    """``low <= value <= high``, or ``low < value`` if ``above``; refuses NaN either way."""
    inside = math.isfinite(value) and (low < value if above else low <= value) and value <= high
    require(
        inside,
        field,
        f"must be {'above' if above else 'at least'} {low:g} and at most {high:g}, not {value!r}",
    )


def require_span(low: float, high: float, field: str) -> None:
    """A declared range, ``low < high``, of the fields ``field``.low and ``field``.high."""
    require_range(low, f"{field}.low", -MAX_MAGNITUDE, MAX_MAGNITUDE)
    require_range(high, f"{field}.high", -MAX_MAGNITUDE, MAX_MAGNITUDE)
    require(low < high, f"{field}.high", f"must be above low, {low!r}, not {high!r}")
