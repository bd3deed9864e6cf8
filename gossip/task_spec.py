"""What a manifest says about the data: kinds of tasks, each a record that checks itself.

    tabular   rows of named columns; two classes, several, or a number to predict
    images    pictures of one fixed size, each of one class
    text      characters of a declared alphabet; each is predicted from those before it

(and those of :mod:`.own_spec`, whose code is the organisations' own).

Whatever scales an input is declared here, or comes from the noised statistics of numeric columns: nothing
else is ever measured on anybody's records. A record is what one epsilon protects: a row, a picture, or a
piece of text as :attr:`TextTask.record` says.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from p2pfl.gossip.declared import (
    MAX_TEXT,
    require,
    require_distinct,
    require_range,
    require_span,
    require_text,
)
from p2pfl.gossip.own_spec import OutsideTask, PluginTask
from p2pfl.gossip.records import added, shown

MAX_COLUMNS = 4096
MAX_LEVELS = 256
MAX_CLASSES = 1024
MAX_SIDE = 1024
MAX_CHANNELS = 16
MAX_PIXELS = 1 << 20  # numbers in one picture
MAX_ALPHABET = 1024
MAX_WINDOW = 4096
MAX_WEIGHT = 1000.0


@dataclass(frozen=True, slots=True)
class Column:
    """One feature column of a table.

    ``numeric``: values are clipped to [``low``, ``high``], which bounds what one record can add to the
    preprocessing statistics. ``categorical``: one-hot over ``levels``, the first of which is dropped.

    ``missing``: what a missing cell means. ``drop``: the row is left out. ``indicator``, of a numeric column:
    the mean, and 1 in an input of its own. ``level``, of a categorical one: a level of its own.
    ``unknown``: what a cell that is none of ``levels`` means: an error, or the same as a missing one.
    """

    name: str
    kind: Literal["numeric", "categorical"]
    low: float = 0.0
    high: float = 0.0
    levels: tuple[str, ...] = ()
    missing: Literal["drop", "indicator", "level"] = added("drop")
    unknown: Literal["refuse", "missing"] = added("refuse")

    def __post_init__(self) -> None:
        require_text(self.name, "task.columns.name")
        field = f"task.columns.{self.name}"
        if self.kind == "numeric":
            require_span(self.low, self.high, field)
            require(not self.levels, f"{field}.levels", "only a categorical column has levels")
            what = 'a numeric column has no levels; use "indicator" or "drop"'
            require(self.missing != "level", f"{field}.missing", what)
            what = "only a categorical column can have unknown levels"
            require(self.unknown == "refuse", f"{field}.unknown", what)
            return
        require(self.low == self.high == 0, f"{field}.low", "only a numeric column has low and high")
        require(len(self.levels) >= 2, f"{field}.levels", "a categorical column needs two levels or more")
        require_distinct(self.levels, f"{field}.levels", MAX_LEVELS)
        for level in self.levels:
            require_text(level, f"{field}.levels")
        what = 'only a numeric column has an indicator; use "level" or "drop"'
        require(self.missing != "indicator", f"{field}.missing", what)

    @property
    def features(self) -> int:
        """How many inputs of the model this column becomes."""
        named = 1 if self.kind == "numeric" else len(self.levels) - 1
        return named + (self.missing != "drop")


@dataclass(frozen=True, slots=True)
class TabularTask:
    """Predict the column ``label`` from ``columns``. Exactly one of three says what it holds:

    ``positive``: two classes; a record is positive (1) if its cell is listed, else 0; with ``negative``, only
    cells listed there are 0, any other is an error. ``classes``: as many as are listed; any other cell is an
    error. ``low`` < ``high``: a number, clipped to that range.

    A record without a label, one of ``missing``, is left out; for other missing cells see :class:`Column`.
    ``class_weights`` multiply the losses of the classes (without ``classes``: of the others, and of the
    positive); they are public, so they must not be counted from anybody's records.
    """

    kind: Literal["tabular"]
    label: str
    positive: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()
    missing: tuple[str, ...] = ("",)
    classes: tuple[str, ...] = added(())
    low: float = added(0.0)
    high: float = added(0.0)
    class_weights: tuple[float, ...] = added(())
    negative: tuple[str, ...] = added(())

    def __post_init__(self) -> None:
        require_text(self.label, "task.label")
        self._check_target()
        self._check_missing()
        require(bool(self.columns), "task.columns", "must declare at least one column")
        require_distinct([column.name for column in self.columns], "task.columns", MAX_COLUMNS)
        used_twice = any(column.name == self.label for column in self.columns)
        what = f"{shown(self.label)} is also a feature column, the model would only copy it"
        require(not used_twice, "task.label", what)

    def _check_target(self) -> None:
        given = [bool(self.positive), bool(self.classes), self.low != 0 or self.high != 0]
        what = "must list the label's cells that count as positive (or give classes, or low and high)"
        require(any(given), "task.positive", what)
        what = "give only one of positive (two classes), classes, and low with high (a number)"
        require(sum(given) == 1, "task.classes", what)
        self._check_negative()
        if self.is_regression:
            require_span(self.low, self.high, "task")
            require(not self.class_weights, "task.class_weights", "a number has no classes to weigh")
            return
        _check_classes(self.positive, "task.positive", 1)
        _check_classes(self.classes, "task.classes", 0 if self.positive else 2)
        _check_weights(self.class_weights, len(self.classes) or 2)

    def _check_negative(self) -> None:
        what = "only positive (two classes) has cells that count as no"
        require(bool(self.positive) or not self.negative, "task.negative", what)
        _check_classes(self.negative, "task.negative", 0)
        both = sorted(set(self.negative) & set(self.positive))
        require(not both, "task.negative", f"also listed in task.positive: {shown(both)}")

    def _check_missing(self) -> None:
        require_distinct(self.missing, "task.missing", MAX_LEVELS)
        for cell in self.missing:
            require(len(cell) <= MAX_TEXT, "task.missing", f"must have at most {MAX_TEXT} characters")
            clean = cell.isprintable() and cell == cell.strip()
            require(clean, "task.missing", f"must be printable: {shown(cell)}")
        for where in ("positive", "negative", "classes"):
            both = sorted(set(getattr(self, where)) & set(self.missing))
            require(not both, "task.missing", f"also listed in task.{where}: {shown(both)}")
        for column in self.columns:
            both = sorted(set(column.levels) & set(self.missing))
            what = f"also listed in task.columns.{column.name}.levels: {shown(both)}"
            require(not both, "task.missing", what)

    @property
    def is_regression(self) -> bool:
        """Whether a number is predicted, not a class."""
        return not (self.positive or self.classes)

    @property
    def left_out(self) -> str:
        """What of a file may not become a record."""
        return "rows with missing cells"

    @property
    def features(self) -> int:
        """Inputs of the model after one-hot encoding."""
        return sum(column.features for column in self.columns)

    @property
    def outputs(self) -> int:
        """Numbers that the model gives for a record: a score for each class, or a single one."""
        return len(self.classes) or 1


@dataclass(frozen=True, slots=True)
class ImageTask:
    """Tell which of ``classes`` a picture shows. Labels in files are numbers from 0, or folders' names.

    Every picture has ``height`` × ``width`` pixels of ``channels`` numbers each; another size is an error.
    [``low``, ``high``], the range of a number, is scaled to [-1, 1].
    """

    kind: Literal["images"]
    height: int
    width: int
    classes: tuple[str, ...]
    channels: int = 1
    low: float = 0.0
    high: float = 255.0
    class_weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        require_range(self.height, "task.height", 1, MAX_SIDE)
        require_range(self.width, "task.width", 1, MAX_SIDE)
        require_range(self.channels, "task.channels", 1, MAX_CHANNELS)
        what = f"{self.features} numbers in a picture, at most {MAX_PIXELS} are allowed"
        require(self.features <= MAX_PIXELS, "task.height", what)
        _check_classes(self.classes, "task.classes", 2)
        require_span(self.low, self.high, "task")
        _check_weights(self.class_weights, len(self.classes))

    @property
    def columns(self) -> tuple[Column, ...]:
        """None: nothing about pictures is measured before training."""
        return ()

    @property
    def left_out(self) -> str:
        """What of a file may not become a record."""
        return "pictures"

    @property
    def features(self) -> int:
        """Numbers in one picture."""
        return self.channels * self.height * self.width

    @property
    def outputs(self) -> int:
        """A score for each class."""
        return len(self.classes)


@dataclass(frozen=True, slots=True)
class TextTask:
    """Predict every character of a record from those before it.

    ``alphabet``: the characters there are, in the order of the model's outputs. ``window``: how many of a
    record are predicted; it has one more, at most. ``record`` says where one ends: at a ``line``'s end, at an
    empty line (``document``), or after ``window`` + 1 characters wherever that is (``chunk``). What is longer
    is cut: only so does one record stay one record. ``unknown``: whether a character outside the alphabet is
    an error or passed over.
    """

    kind: Literal["text"]
    alphabet: str
    window: int
    record: Literal["line", "document", "chunk"]
    unknown: Literal["refuse", "skip"] = "refuse"

    def __post_init__(self) -> None:
        require_range(len(self.alphabet), "task.alphabet", 2, MAX_ALPHABET)
        require(len(set(self.alphabet)) == len(self.alphabet), "task.alphabet", "has a character twice")
        what = "has a carriage return; line ends are read as single newlines"
        require("\r" not in self.alphabet, "task.alphabet", what)
        require_range(self.window, "task.window", 1, MAX_WINDOW)

    @property
    def columns(self) -> tuple[Column, ...]:
        """None: nothing about text is measured before training."""
        return ()

    @property
    def left_out(self) -> str:
        """What of a file may not become a record."""
        return "characters"

    @property
    def features(self) -> int:
        """Different characters."""
        return len(self.alphabet)

    @property
    def outputs(self) -> int:
        """A score for each character that may come next."""
        return len(self.alphabet)


TaskSpec: TypeAlias = TabularTask | ImageTask | TextTask | PluginTask | OutsideTask


def _check_classes(names: tuple[str, ...], field: str, least: int) -> None:
    if names or least > 1:
        require(len(names) >= least, field, f"must list {least} classes or more")
    require_distinct(names, field, MAX_CLASSES if field == "task.classes" else MAX_LEVELS)
    for name in names:
        require_text(name, field)


def _check_weights(weights: tuple[float, ...], classes: int) -> None:
    field = "task.class_weights"
    fits = len(weights) in (0, classes)
    require(fits, field, f"must have one weight for each of {classes} classes, not {len(weights)}")
    for weight in weights:
        require_range(weight, field, 0, MAX_WEIGHT, above=True)
