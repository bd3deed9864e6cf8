"""docs/results.md: text, with every figure from rows."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from p2pfl.heart_disease import PUBLISHED
from reproduce import digits, hearts, parties
from reproduce.rows import Row, chosen

PICTURE: Final = "parties.svg"
_TEXT: Final = Path(__file__).parent / "text"


def page(rows: Sequence[Row]) -> str:
    """The whole of it."""
    return "\n".join([_text("introduction"), *sections(rows)])


def sections(rows: Sequence[Row]) -> list[str]:
    """Those that there are ``rows`` for."""
    found = []
    if chosen(rows, hearts.EXPERIMENT):
        found += [_hospitals(rows), _hospitals_under_privacy(rows)]
    if chosen(rows, digits.EXPERIMENT):
        found.append(_digits(rows))
    if chosen(rows, parties.HEARTS) or chosen(rows, parties.DIGITS):
        found.append(_parties(rows))
    return found


def _text(name: str, **figures: object) -> str:
    return (_TEXT / f"{name}.md").read_text(encoding="utf-8").format(**figures)


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    every = [head, ["---"] * len(head), *lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in every)


def _share(row: Row, figure: str, digits: int = 3) -> str:
    spread = f" ± {_plain(row.deviation[figure], digits)}" if row.seeds > 1 else ""
    return _plain(row.mean[figure], digits) + spread


def _plain(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}".removeprefix("0")


def _only(rows: Sequence[Row], experiment: str, **case: str | float) -> Row:
    [row] = chosen(rows, experiment, **case)
    return row


# -- four hospitals
def _hospitals(rows: Sequence[Row]) -> str:
    def line(name: str, published: str, **case: str | float) -> list[str]:
        row = _only(rows, hearts.EXPERIMENT, **case)
        return [name, _share(row, "mean"), _share(row, "pooled"), published]

    quoted = {name: f"{_plain(one.mean)} / {_plain(one.pooled)}" for name, one in PUBLISHED.items()}
    federation = {"way": "federation"}
    averaging = f"{quoted['federated averaging']} federated averaging"
    table = _table(
        ("test accuracy", "mean of the four hospitals", "all test records", "published: mean / all"),
        [
            line("each hospital alone, on its own patients", "", way="alone"),
            line(
                "**federation, epsilon 1**, mode `distributed`",
                "",
                **federation,
                mode="distributed",
                epsilon=1.0,
            ),
            line("federation, epsilon 1, mode `local`", "", **federation, mode="local", epsilon=1.0),
            line("federation, no privacy", averaging, **federation, mode="none"),
            line(
                "the same, each hospital scaling its inputs by its own statistics",
                averaging,
                way="own scales",
            ),
            line("all records pooled in one place, no privacy", f"{quoted['pooled']} pooled", way="pooled"),
        ],
    )
    private = _only(rows, hearts.EXPERIMENT, way="federation", mode="distributed", epsilon=1.0)
    return _text(
        "hospitals",
        table=table,
        seeds=private.seeds,
        rounds=hearts.manifest().training.rounds,
        against=f"{private.mean['against two']:.1f}",
        rdp=f"{private.mean['rdp']:.2f}",
    )


def _hospitals_under_privacy(rows: Sequence[Row]) -> str:
    lines = []
    for limit in hearts.EPSILONS:
        ours = [
            _only(rows, hearts.EXPERIMENT, way="federation", mode=mode, epsilon=limit)
            for mode in ("distributed", "local")
        ]
        accuracy, deviation = hearts.FLAMBY[limit]
        really = _only(rows, hearts.EXPERIMENT, way="FLamby", epsilon=limit).mean
        published = _plain(accuracy) + ("" if deviation is None else f" ± {_plain(deviation)}")
        spent = f"{really['least']:.2g} to {really['most']:.3g}"
        lines.append([f"{limit:g}", *(_share(row, "mean") for row in ours), published, spent])
    head = ("epsilon", "`distributed`", "`local`", "FLamby, nominal epsilon", "which really was")
    ill = _only(rows, hearts.EXPERIMENT, way="all ill")
    return _text(
        "privacy",
        table=_table(head, lines),
        epochs=hearts.FLAMBY_ROUNDS,
        steps=f"{hearts.FLAMBY_STEPS:,}",
        batch=hearts.FLAMBY_BATCH,
        records=sum(map(len, hearts.tables()[0])),
        always=_plain(ill.mean["mean"]),
    )


# -- MNIST
def _digits(rows: Sequence[Row]) -> str:
    files = "".join(f"    {digest}  {name}\n" for name, digest in digits.FILES.items())
    spec = digits.agreement(0.0, digits.SCHEDULES["full"], digits.ORGANISATIONS)
    return _text(
        "digits",
        members=digits.ORGANISATIONS,
        files=files,
        parameters=f"{spec.model.parameters(spec.task.features):,}",
        tables="".join(_digits_table(rows, form) for form in ("full", "short")),
        shared=digits.OURS[3.0],
    )


def _digits_table(rows: Sequence[Row], form: str) -> str:
    ours = [row for row in chosen(rows, digits.EXPERIMENT) if row.form == form]
    if not ours:
        return ""
    schedule = digits.SCHEDULES["full" if form == "full" else "short"]
    lines = []
    for published in digits.PUBLISHED:
        limit = digits.OURS[published.epsilon]
        if not chosen(ours, digits.EXPERIMENT, way="federation", epsilon=limit):
            continue
        central = _only(ours, digits.EXPERIMENT, way="central", epsilon=limit)
        federation = _only(ours, digits.EXPERIMENT, way="federation", epsilon=limit)
        deviation = "" if published.deviation is None else f" ± {100 * published.deviation:.2f}"
        cost = chosen(ours, digits.EXPERIMENT, way="published", epsilon=published.epsilon)
        spent = "".join(f"{row.mean['pld']:.2f}" for row in cost)
        theirs = f"{100 * published.accuracy:.2f}{deviation} ({published.source})"
        name = f"{published.epsilon:g}" if published.epsilon else "no privacy"
        used = f"{federation.mean['pld']:.2f}" if published.epsilon else ""
        lines.append([name, theirs, spent, _percent(central), _percent(federation), used])
    head = (
        "epsilon, published",
        "accuracy, published, %",
        "by PLD",
        "central, %",
        "federation, %",
        "ours, by PLD",
    )
    seeds = "seeds" if schedule.seeds > 1 else "seed"
    name = "`make reproduce-full`" if form == "full" else "`make reproduce`, the short form"
    what = (
        f"{name}: {schedule.epochs} epochs of Poisson batches of {schedule.batch:,} from all"
        f" {digits.ORGANISATIONS} together, {digits.rounds(schedule)} rounds, {schedule.seeds} {seeds}."
    )
    return f"{what}\n\n{_table(head, lines)}\n"


def _percent(row: Row) -> str:
    spread = f" ± {100 * row.deviation['accuracy']:.2f}" if row.seeds > 1 else ""
    return f"{100 * row.mean['accuracy']:.2f}{spread}"


# -- parties
def _parties(rows: Sequence[Row]) -> str:
    tables = [_parties_table(chosen(rows, name), name) for name in (parties.HEARTS, parties.DIGITS)]
    return _text("parties", picture=PICTURE, tables="\n".join(filter(None, tables))).removesuffix("\n")


def _parties_table(rows: Sequence[Row], name: str) -> str:
    if not rows:
        return ""
    numbers = sorted({int(row.case["parties"]) for row in rows})
    cell = {(str(row.case["mode"]), int(row.case["parties"])): _share(row, "accuracy") for row in rows}
    names = {"none": "no privacy", "distributed": "distributed noise", "local": "local noise"}
    lines = [[names[mode], *(cell.get((mode, number), "") for number in numbers)] for mode in names]
    where, seeds = name.partition(", ")[2], rows[0].seeds
    title = f"{where}, epsilon {parties.EPSILON[name]:g}, {seeds} {'seeds' if seeds > 1 else 'seed'}"
    return _table([title, *map(str, numbers)], lines)
