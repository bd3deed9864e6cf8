"""Tables for people, in columns that line up."""

from collections.abc import Iterator, Sequence


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A line for each of ``rows``, the first of which is the head; all have as many cells."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def megabytes(count: float) -> str:
    """``count`` bytes in MB, to three digits or all before the point."""
    return f"{count / 1e6:,.0f}" if count >= 1e8 else f"{count / 1e6:.3g}"


def optional(value: float | None, form: str = "g") -> str:
    """A dash where there is no ``value``."""
    return "-" if value is None else format(value, form)
