"""What every benchmark prints: rows of one shape, as a table for people or as JSON."""

import json
from collections.abc import Mapping

Row = dict[str, object]
Rows = list[Row]


def row(
    name: str,
    params: Mapping[str, object],
    value: float | None,
    unit: str,
    baseline: str = "",
    ratio: float | None = None,
    target: float | None = None,
    *,
    met: bool | None = None,
) -> Row:
    """One figure, None if it was not measured; ``ratio`` to that of ``baseline``, and whether ``target`` is
    ``met``.
    """
    keys = ("name", "params", "value", "unit", "baseline", "ratio", "target", "met")
    return dict(zip(keys, (name, dict(params), value, unit, baseline, ratio, target, met), strict=True))


def show(rows: Rows, *, as_json: bool) -> None:
    """Print them all."""
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    for each in rows:
        params = ", ".join(_parameter(*item) for item in dict(each["params"]).items())  # type: ignore[call-overload]
        ratio = "" if each["ratio"] is None else f"{each['ratio']:8.2f} of {each['baseline']}"
        met = "" if each["met"] is None else ("  met" if each["met"] else "  NOT MET")
        aim = "" if each["target"] is None else f"  (target {each['target']:g}{met})"
        print(f"{each['name']:26} {params:30} {_value(each['value'])} {each['unit']:14}{ratio}{aim}")


def _value(value: object) -> str:
    return f"{value:10.4g}" if isinstance(value, float | int) else "not measured:"


def _parameter(name: str, value: object) -> str:
    return f"{name} = {value:,}" if isinstance(value, int) else f"{name} = {value}"
