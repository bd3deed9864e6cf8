"""What `p2pfl demo` prints at its end: accuracy beside what is published, rounds, bytes, epsilon, where
everything is.

The demo may look at all four hospitals' test records, because it is a demo. The federation itself never does:
its own evaluation, one noised secure sum, is printed too.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from p2pfl.baselines import pooled, train_centrally
from p2pfl.crypto.randomness import system_random
from p2pfl.gossip.manifest import Manifest
from p2pfl.heart_disease import HOSPITALS, PUBLISHED
from p2pfl.node.training.table import Table, load_table
from p2pfl.terminal import alarm

_NAME, _CELL = 38, 12

Statuses = Mapping[str, Mapping[str, Any]]


def print_report(manifest: Manifest, statuses: Statuses, directory: Path) -> None:
    """Print everything that the demo promises; a node that did not finish shows dashes."""
    _print_accuracy(manifest, statuses, directory)
    _print_nodes(statuses)
    _print_privacy(manifest, statuses)
    print(f"\nmodel      {statuses[HOSPITALS[0]].get('model') or '-'} (and the same at every hospital)")
    print(f"logs       {directory}/*/node.log")
    first = directory / HOSPITALS[0]
    print(f"try        p2pfl predict --config {first / 'node.toml'} --data {first / 'test.csv'}")


def _row(name: str, cells: Iterable[object]) -> str:
    return name.ljust(_NAME) + "".join(f"{cell:>{_CELL}}" for cell in cells)


def _figures(values: Iterable[float | None]) -> list[str]:
    return ["-" if value is None else f"{value:.3f}" for value in values]


# -- accuracy
def _print_accuracy(manifest: Manifest, statuses: Statuses, directory: Path) -> None:
    train, test = (
        {name: load_table(directory / name / f"{part}.csv", manifest.task) for name in HOSPITALS}
        for part in ("train", "test")
    )
    everybody = pooled(list(test.values()))
    print("\n" + _row("accuracy on test records", (*HOSPITALS, "mean of 4", "pooled")))
    for name in HOSPITALS:
        alone = train_centrally(manifest, train[name], system_random)
        print(_row(f"trained alone: {name}", _scores(alone.accuracy, test, everybody)))
    print(_row("this federation", _federation_scores(statuses, test)))
    print(_row("  published federated averaging", _published("federated averaging")))
    central = train_centrally(manifest, pooled(list(train.values())), system_random)
    print(_row("all records pooled, no privacy", _scores(central.accuracy, test, everybody)))
    print(_row("  published pooled training", _published("pooled")))
    evaluation = next(
        (status["evaluation"] for status in statuses.values() if status.get("evaluation")), None
    )
    if evaluation is not None:
        noised = " (noised, as the hospitals see it)" if manifest.privacy.mode != "none" else ""
        print(f"the federation's own evaluation, one secure sum: {evaluation['accuracy']:.3f}{noised}")


def _scores(accuracy: Any, test: Mapping[str, Table], everybody: Table) -> list[str]:
    each = [accuracy(table) for table in test.values()]
    return _figures([*each, sum(each) / len(each), accuracy(everybody)])


def _federation_scores(statuses: Statuses, test: Mapping[str, Table]) -> list[str]:
    """From what each hospital measured on its own records; the demo adds them up."""
    own = [statuses[name].get("own_evaluation") or None for name in HOSPITALS]
    each = [None if found is None else found["accuracy"] for found in own]
    known = [found for found in own if found is not None]
    if len(known) < len(own):
        return _figures([*each, None, None])
    total = sum(found["total"] for found in known)
    mean = sum(found["accuracy"] for found in known) / len(known)
    return _figures([*each, mean, sum(found["correct"] for found in known) / total])


def _published(method: str) -> list[str]:
    figures = PUBLISHED[method]
    return _figures([*figures.each, figures.mean, figures.pooled])


# -- nodes
def _print_nodes(statuses: Statuses) -> None:
    print("\n" + _row("", HOSPITALS))
    rows: Sequence[tuple[str, str]] = (
        ("rounds completed", "completed"),
        ("rounds skipped", "skipped"),
        ("bytes sent", "bytes_sent"),
    )
    for title, key in rows:
        cells = [statuses[name].get(key) for name in HOSPITALS]
        print(_row(title, ["-" if cell is None else f"{cell:,}" for cell in cells]))


def _print_privacy(manifest: Manifest, statuses: Statuses) -> None:
    privacy = manifest.privacy
    if privacy.mode == "none":
        print(alarm("epsilon    NONE: mode none was asked for, no privacy is promised"))
        return
    spent = [statuses[name].get("epsilon") for name in HOSPITALS]
    print(_row(f"epsilon spent of {privacy.epsilon:g}", _figures(spent)))
    print(
        _row("  by the Rényi accountant", _figures(statuses[name].get("epsilon_rdp") for name in HOSPITALS))
    )
    rungs = max((status.get("ladder") or [] for status in statuses.values()), key=len)
    for position, (colluders, _) in enumerate(rungs):
        cells = [_rung(statuses[name].get("ladder") or [], position) for name in HOSPITALS]
        assumed = " (assumed)" if colluders == manifest.groups.colluders else ""
        print(_row(f"  if {colluders} of a group collude{assumed}", _figures(cells)))
    print(f"at delta {privacy.delta:g}, for one patient's record, added or removed; mode {privacy.mode}")


def _rung(ladder: Sequence[Sequence[Any]], position: int) -> float | None:
    return None if position >= len(ladder) else float(ladder[position][1])
