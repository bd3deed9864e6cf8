"""Pictures in SVG and PNG. matplotlib, which draws them, is an optional extra and is imported nowhere else
but where something is drawn.

The same figure gives the same bytes: no date, and names inside an SVG that depend on its content only.
Letters stay letters, so a picture can be searched and read aloud.
"""

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from importlib.util import find_spec
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from p2pfl.node.errors import UsageError
from p2pfl.node.storage.atomic_file import write_atomically
from p2pfl.terminal import note, one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REMEDY: Final = "pip install 'p2pfl-node[plots]'"
SUFFIXES: Final = (".svg", ".png")
COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#7f7f7f")
"""Told apart by people who see red and green alike (Okabe and Ito, Color Universal Design, 2008)."""
_NO_METADATA: Final = dict.fromkeys(("Date", "Creator", "Format", "Type"))
_STYLE: Final[Any] = {
    "svg.hashsalt": "p2pfl",
    "svg.fonttype": "none",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "sans-serif"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": "medium",
    "legend.frameon": False,
    "legend.fontsize": "small",
}


def available() -> bool:
    """Whether pictures can be drawn here."""
    return find_spec("matplotlib") is not None


def picture(name: str) -> Path:
    """The path of a picture to draw. Raises UsageError if it is of another kind, or nothing can be drawn."""
    path = Path(name)
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{name} must end in {' or '.join(SUFFIXES)}", "name the picture to draw first")
    if not available():
        raise UsageError("drawing takes matplotlib, which is not installed", REMEDY)
    return path


def styled() -> AbstractContextManager[None]:
    """What figures are made and saved in."""
    import matplotlib as mpl

    return mpl.rc_context(_STYLE)


def panels(count: int, *, width: float = 4.0, height: float = 3.0, columns: int = 4) -> "Sequence[Axes]":
    """``count`` axes of one figure, in rows of up to ``columns``; ``width`` and ``height`` of each in inches.
    Call it inside :func:`styled`.
    """
    from matplotlib.figure import Figure

    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    found: list[Axes] = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in found[count:]:
        spare.remove()
    return found[:count]


def literal(text: str) -> str:
    """A user's ``text`` as matplotlib shows it as it is: a dollar sign begins no formula."""
    return one_line(text).replace("$", r"\$")


def data(figure: "Figure", suffix: str) -> bytes:
    """The file that ``figure`` is saved as. Call it inside :func:`styled`."""
    if suffix == ".png":
        pixels = BytesIO()
        figure.savefig(pixels, format="png", dpi=144, metadata={"Software": None})
        return pixels.getvalue()
    written = StringIO()
    figure.savefig(written, format="svg", metadata=_NO_METADATA)
    text = re.sub(r'(?<= )(?:d|x|y)="[^"]*"', _shortened, written.getvalue())
    return re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE).encode()


def save(axes: "Axes", path: Path) -> None:
    """Write the whole figure of ``axes`` to ``path``, and say so. Call it inside :func:`styled`.

    Raises StorageError.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    write_atomically(path, data(figure, path.suffix), 0o644)
    note(f"wrote {path}")


def inline(svg: bytes, prefix: str) -> str:
    """The element of ``svg`` to stand in an HTML page beside others: no prologue, no namespaces (which look
    like addresses), and ids, which are the same in every picture, behind ``prefix``.
    """
    text = svg.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", text, count=2).replace("xlink:href", "href")
    return re.sub(r'(\sid="|\shref="#|url\(#)', rf"\g<1>{prefix}-", text)


def _shortened(attribute: re.Match[str]) -> str:
    """Places on one line, to a hundredth of a point: no eye tells more, and every machine computes that."""
    return re.sub(r"(\.\d\d)\d+", r"\1", attribute[0]).replace("\n", " ")
