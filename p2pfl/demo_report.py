"""What `p2pfl demo` prints at its end: accuracy beside what is published, rounds, bytes, epsilon, where
everything is.

The demo may look at all four hospitals' test records, because it is a demo. The federation itself never does:
its own evaluation, one noised secure sum, is printed too.
"""

import math
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from p2pfl.baselines import pooled, train_centrally
from p2pfl.crypto.randomness import system_random
from p2pfl.gossip.manifest import Manifest
from p2pfl.heart_disease import HOSPITALS, PUBLISHED
from p2pfl.node.privacy import dimension, stage_plan
from p2pfl.node.training.table import Table, load_table
from p2pfl.terminal import alarm

_TITLES = (*HOSPITALS, "mean of 4", "all")
_NAME = 39
_WIDTHS = (*(max(10, len(title) + 1) for title in HOSPITALS), 10, 7)

_PUBLISHED_NOTE = """\
[1] FLamby's run of its own baselines (Ogier du Terrail et al., NeurIPS 2022): five seeds, each
    hospital's inputs scaled by its own mean; ours is one run, scaled alike by one secure sum"""
_ONLY_ITS_OWN = "[2] equal: so many could open two sums, and then only the node's own noise is counted"
_LADDER_NOTES = {
    "distributed": _ONLY_ITS_OWN,
    "organisation": _ONLY_ITS_OWN,
    "local": "[2] equal: every node adds all of the noise by itself",
}

Statuses = Mapping[str, Mapping[str, Any]]


def print_report(manifest: Manifest, statuses: Statuses, directory: Path) -> None:
    """Print everything that the demo promises; a node that did not finish shows dashes."""
    _print_accuracy(manifest, statuses, directory)
    _print_nodes(manifest, statuses)
    _print_privacy(manifest, statuses)
    model = next((status["model"] for status in statuses.values() if status.get("model")), "-")
    home = directory / HOSPITALS[-1]
    words = ("predict", "--config", home / "node.toml", "--data", home / "test.csv")
    print(f"\nmodel      {model} (and the same at every hospital)")
    print(f"logs       {directory}/*/node.log")
    print(f"try        {_program()} {shlex.join(map(str, words))}")


def _program() -> str:
    """What to type where the demo was started to get the same `p2pfl` again."""
    called = sys.argv[0]
    if Path(called).name == "__main__.py":
        return f"{shlex.quote(sys.executable)} -m p2pfl"
    return "p2pfl" if shutil.which("p2pfl") == called else shlex.quote(called)


def _row(name: str, cells: Iterable[object]) -> str:
    return name.ljust(_NAME) + "".join(
        f"{cell:>{width}}" for cell, width in zip(cells, _WIDTHS, strict=False)
    )


def _figures(values: Iterable[float | None]) -> list[str]:
    return ["-" if value is None else f"{value:.3f}" for value in values]


# -- accuracy
def _print_accuracy(manifest: Manifest, statuses: Statuses, directory: Path) -> None:
    train, test = (
        {name: load_table(directory / name / f"{part}.csv", manifest.task) for name in HOSPITALS}
        for part in ("train", "test")
    )
    everybody = pooled(list(test.values()))
    print("\n" + _row("accuracy", _TITLES))
    print(_row("(test records)", (*map(len, test.values()), "", len(everybody))))
    for name in HOSPITALS:
        alone = train_centrally(manifest, train[name], system_random)
        print(_row(f"trained alone (no privacy): {name}", _scores(alone.accuracy, test, everybody)))
    privacy = manifest.privacy
    promise = "no privacy" if privacy.mode == "none" else f"epsilon {privacy.epsilon:g}"
    print(_row(f"this federation ({promise})", _federation_scores(statuses, test)))
    print(_row("  published federated averaging [1]", _published("federated averaging")))
    central = train_centrally(manifest, pooled(list(train.values())), system_random)
    print(_row("all records pooled (no privacy)", _scores(central.accuracy, test, everybody)))
    print(_row("  published pooled training [1]", _published("pooled")))
    evaluation = next(
        (status["evaluation"] for status in statuses.values() if status.get("evaluation")), None
    )
    if evaluation is not None and "accuracy" in evaluation:
        print(f"the federation's own evaluation, one secure sum: {_evaluation(manifest, evaluation)}")
    print(_PUBLISHED_NOTE)


def _evaluation(manifest: Manifest, evaluation: Mapping[str, float]) -> str:
    """The noised accuracy, and the standard deviation that the noise on its two sums gives it (to first
    order, and if nobody dropped out).
    """
    accuracy = evaluation["accuracy"]
    if manifest.privacy.mode == "none":
        return f"{accuracy:.3f}"
    plan = stage_plan(manifest, "evaluation", dimension(manifest, "evaluation"))
    group = manifest.groups.thresholds
    records = math.ldexp(plan.sigma(group) * math.sqrt(group.members), -plan.encoding.fraction_bits)
    deviation = records * math.hypot(1, accuracy) / evaluation["total"]
    return f"{accuracy:.3f} ± {deviation:.3f} (standard deviation of its noise)"


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
    return _figures([*each, mean, sum(found["accuracy"] * found["total"] for found in known) / total])


def _published(method: str) -> list[str]:
    figures = PUBLISHED[method]
    return _figures([*figures.each, figures.mean, figures.pooled])


# -- nodes
def _print_nodes(manifest: Manifest, statuses: Statuses) -> None:
    print("\n" + _row("", HOSPITALS))
    of_each = [statuses[name] for name in HOSPITALS]
    missed = [_missed(manifest, status) for status in of_each]
    rows: list[tuple[str, list[int | None]]] = [
        ("rounds, with statistics and evaluation", [status.get("completed") for status in of_each]),
        ("rounds skipped", [status.get("skipped") for status in of_each]),
        ("bytes sent since the node's last start", [status.get("bytes_sent") for status in of_each]),
    ]
    if any(missed):
        rows.insert(2, ("rounds missed: node or group not there", missed))
    for title, cells in rows:
        print(_row(title, ["-" if cell is None else f"{cell:,}" for cell in cells]))


def _missed(manifest: Manifest, status: Mapping[str, Any]) -> int | None:
    """Rounds of the programme, statistics and evaluation among them, that went by without this node."""
    if status.get("completed") is None:
        return None
    gone = manifest.training.rounds + 2 - int(status["completed"]) - int(status.get("skipped", 0))
    return max(gone, 0)


def _print_privacy(manifest: Manifest, statuses: Statuses) -> None:
    privacy = manifest.privacy
    if privacy.mode == "none":
        print(alarm("epsilon    NONE: mode none was asked for, no privacy is promised"))
        return
    spent = [statuses[name].get("epsilon") for name in HOSPITALS]
    print(
        _row(f"epsilon spent of {privacy.epsilon:g} ({manifest.groups.colluders} colluding)", _figures(spent))
    )
    rungs = max((status.get("ladder") or [] for status in statuses.values()), key=len)
    figures = [figure for _, figure in rungs]
    for position, (colluders, figure) in enumerate(rungs[1:], start=1):
        cells = [_rung(statuses[name].get("ladder") or [], position) for name in HOSPITALS]
        mark = " [2]" if figures.count(figure) > 1 else ""
        print(_row(f"  if {colluders} of a group collude{mark}", _figures(cells)))
    bounds = _figures(statuses[name].get("epsilon_rdp") for name in HOSPITALS)
    print(_row("  Rényi bound: looser, a cross-check", bounds))
    whose = "all records of a hospital together" if privacy.mode == "organisation" else "one patient's record"
    print(f"at delta {privacy.delta:g}, for {whose}, added or removed; mode {privacy.mode}")
    if len(set(figures)) < len(figures):
        print(_LADDER_NOTES[privacy.mode])


def _rung(ladder: Sequence[Sequence[Any]], position: int) -> float | None:
    return None if position >= len(ladder) else ladder[position][1]
