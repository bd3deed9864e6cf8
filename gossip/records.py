"""Typed records out of plain tables: one strict reader for what people write (TOML) and what travels
(canonical msgpack).

A record is a frozen dataclass whose fields are ``str``, ``int``, ``float``, ``Literal`` of strings or of
whole numbers, a homogeneous tuple of those, another record, or one of several (a union), told apart by their
field ``kind``. Nothing is coerced silently, unknown and
missing fields are refused, and every refusal names its field by path (``training.rounds``,
``task.columns[3].low``).

A field that was :func:`added` to a format is left out of what travels when it has its default:
what was written before the field existed keeps its bytes, and its meaning.
"""

import dataclasses
import difflib
import json
import math
from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Any, Literal, NewType, NoReturn, TypeVar, get_args, get_origin, get_type_hints

Record = TypeVar("Record")
_SHOWN = 60
_HINTS: dict[type, Mapping[str, Any]] = {}


def added(default: Any) -> Any:
    """A field with ``default`` that a format gained when it was in use already."""
    return dataclasses.field(default=default, metadata={"added": True})


class FieldError(ValueError):
    """``field`` (a dotted path) is wrong: ``reason`` is lower case, fit for an operator, without control
    characters.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field = field
        self.reason = reason

    def __reduce__(self) -> tuple[type["FieldError"], tuple[str, str]]:
        """So that it crosses to another process."""
        return type(self), (self.field, self.reason)


def shown(value: object) -> str:
    """A short, single-line, printable picture of an untrusted ``value``."""
    text = ascii(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def suggest(name: str, known: Iterable[str]) -> str:
    """What to say about an unknown ``name``: the closest known one, else all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {close[0]}?" if close else "known here: " + ", ".join(names)


def read_record(record: type[Record], table: object, path: str, *, floats_are_text: bool) -> Record:
    """Build ``record`` from ``table``, a mapping of field names.

    ``floats_are_text``: floats must be their exact ``repr`` and every field must be there, but for those that
    were added (canonical form); otherwise floats are numbers and a field with a default may be left out
    (TOML). ``ABSENT`` of ``record``, if there, says why a field that people look for does not exist. Raises
    FieldError; also whatever the record's own checks raise.
    """
    if not isinstance(table, Mapping):
        raise FieldError(path, f"must be a table, not {shown(table)}")
    hints = _hints(record)
    fields = {field.name: field for field in dataclasses.fields(record)}  # type: ignore[arg-type]  # any dataclass
    for name in table:
        if name not in fields:
            why = getattr(record, "ABSENT", {}).get(name) or suggest(str(name), fields)
            raise FieldError(_join(path, str(name)), f"unknown field; {why}")
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in table:
            values[name] = _read(hints[name], table[name], _join(path, name), floats_are_text)
        elif (floats_are_text and not _is_added(field)) or field.default is dataclasses.MISSING:
            raise FieldError(_join(path, name), "missing")
    return record(**values)


def read_variant(variants: Any, table: object, path: str, *, floats_are_text: bool) -> object:
    """Build the one of ``variants``, a union of records, that the ``kind`` in ``table`` belongs to.

    Raises as :func:`read_record` does.
    """
    if not isinstance(table, Mapping):
        raise FieldError(path, f"must be a table, not {shown(table)}")
    kinds = {kind: record for record in get_args(variants) for kind in get_args(_hints(record)["kind"])}
    if "kind" not in table:
        raise FieldError(_join(path, "kind"), "missing")
    kind = table["kind"]
    if not isinstance(kind, str) or kind not in kinds:
        _refuse(_join(path, "kind"), "one of " + ", ".join(map(json.dumps, kinds)), kind)
    return read_record(kinds[kind], table, path, floats_are_text=floats_are_text)


def plain(record: object) -> dict[str, object]:
    """The inverse of ``read_record(…, floats_are_text=True)``: mappings, lists, str and int only."""
    hints = _hints(type(record))
    written = {}
    for field in dataclasses.fields(record):  # type: ignore[arg-type]  # any dataclass
        value = getattr(record, field.name)
        if not (_is_added(field) and value == field.default):
            written[field.name] = _plain(hints[field.name], value)
    return written


def _is_added(field: "dataclasses.Field[Any]") -> bool:
    return bool(field.metadata.get("added"))


def _hints(record: type) -> Mapping[str, Any]:
    if record not in _HINTS:
        _HINTS[record] = get_type_hints(record)
    return _HINTS[record]


def _plain(hint: Any, value: Any) -> object:
    if hint is float:
        return repr(float(value))
    if get_origin(hint) is tuple:
        return [_plain(get_args(hint)[0], element) for element in value]
    return plain(value) if dataclasses.is_dataclass(value) else value


def _join(path: str, name: str) -> str:
    name = name if name.isidentifier() else shown(name)
    return f"{path}.{name}" if path else name


def _read(hint: Any, raw: object, path: str, floats_are_text: bool) -> object:
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        return read_record(hint, raw, path, floats_are_text=floats_are_text)
    if get_origin(hint) is UnionType:
        return read_variant(hint, raw, path, floats_are_text=floats_are_text)
    if get_origin(hint) is tuple:
        if not isinstance(raw, list | tuple):
            _refuse(path, "a list", raw)
        element = get_args(hint)[0]
        return tuple(_read(element, item, f"{path}[{i}]", floats_are_text) for i, item in enumerate(raw))
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        if type(raw) is not type(choices[0]) or raw not in choices:
            _refuse(path, "one of " + ", ".join(json.dumps(choice) for choice in choices), raw)
        return raw
    if hint is float:
        return _read_float(raw, path, floats_are_text)
    expected = hint.__supertype__ if isinstance(hint, NewType) else hint
    if type(raw) is not expected:
        _refuse(path, "text in quotes" if expected is str else "a whole number", raw)
    return raw


def _read_float(raw: object, path: str, floats_are_text: bool) -> float:
    if floats_are_text:
        try:
            value = float(raw) if type(raw) is str else None
        except ValueError:
            value = None
        if value is None or repr(value) != raw:
            _refuse(path, "the canonical text of a number", raw)
    elif type(raw) is int or type(raw) is float:
        try:
            value = float(raw)
        except OverflowError:
            value = math.inf
    else:
        _refuse(path, "a number", raw)
    if not math.isfinite(value):
        _refuse(path, "finite", raw)
    return value


def _refuse(path: str, expected: str, raw: object) -> NoReturn:
    raise FieldError(path, f"must be {expected}, not {shown(raw)}")
