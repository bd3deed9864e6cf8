"""What was simulated and what came of it, as one page that needs nothing else: no scripts, no addresses, no
other files. Whatever a user wrote is text in it.
"""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Final

from p2pfl.drawing import Drawing
from p2pfl.explain import explain
from p2pfl.figures import data, inline, panels, styled
from p2pfl.gossip.manifest import PrivacySpec
from p2pfl.node.storage.atomic_file import write_atomically
from p2pfl.simulation.experiment import Experiment, Sweep
from p2pfl.simulation.plots import Plot, plots
from p2pfl.simulation.running import Row, graph
from p2pfl.simulation.setting import Setting
from p2pfl.simulation.sources import deal, load
from p2pfl.simulation.summary import remarks, shown, table
from p2pfl.terminal import one_line
from p2pfl.topologies.errors import TopologyError
from p2pfl.topologies.grouped import grouped

REPORT: Final = "report.html"
_DRAWN: Final = 4
_STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 54em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse } td, th { text-align: left; padding: .2em 1em .2em 0; vertical-align: top }
.numbers td, .numbers th { border-bottom: 1px solid #ddd; font-variant-numeric: tabular-nums }
.wide { overflow-x: auto } svg { max-width: 100%; height: auto } figure { margin: 1.5em 0 }
pre { background: #f4f4f4; padding: .8em; overflow-x: auto } .none { color: #c00; font-weight: bold }
"""
_HEAD: Final = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>Simulation: {name}</title>
<style>{style}</style>
</head>
"""
_EXPLAINED: Final = """\
<p>Accuracy: of the mean of all models, on records that nobody learnt from; ± one standard deviation over
seeds. Worst node: the least accurate model of an honest node looked at. Consensus: mean squared distance of
the models from their mean. Epsilon: what a record has paid if its node attended every round. MB sent: by a
node, in all, without headers and signatures.</p>"""
_PARTITIONS: Final = {
    "natural": "as they came, a node for each part",
    "iid": "at random, as many to each",
    "dirichlet": "class by class in shares drawn from a Dirichlet distribution of alpha {alpha:g}",
    "shards": "sorted by class, {shards} pieces to each",
    "column": "a node for each value of {column}",
}
_ATTACKS: Final = {
    "sign_flip": "move the model the other way",
    "noise": "send noise instead of what they learnt",
    "labels": "learn wrong labels",
}


@dataclass(frozen=True, slots=True)
class Again:
    """How to run it again: the ``words`` of the command, and the ``experiment`` file, if there was one."""

    words: Sequence[str]
    experiment: str


def write(rows: Sequence[Row], sweep: Sweep, directory: Path, again: Again) -> list[Path]:
    """The plots, each as a file, and ``report.html`` with all of them in it. Raises StorageError.

    matplotlib must be there: see :func:`p2pfl.figures.available`.
    """
    found = list(plots(rows, sweep.axes))
    written = [directory / plot.name for plot in found]
    for plot, path in zip(found, written, strict=True):
        write_atomically(path, plot.svg, 0o644)
    written.append(directory / REPORT)
    write_atomically(written[-1], page(rows, sweep, found, again).encode(), 0o644)
    return written


def page(rows: Sequence[Row], sweep: Sweep, found: Sequence[Plot], again: Again) -> str:
    """The report."""
    name = _text(sweep.experiments[0].manifest.name)
    parts = [
        f"<h1>Simulation: {name}</h1>",
        "<h2>What was simulated</h2>",
        *_what(sweep),
        "<h2>How it ended</h2>",
        *_summary(rows, sweep),
        "<h2>How it went</h2>",
        *(_figure(plot.title, plot.svg, f"p{number}") for number, plot in enumerate(found)),
        "<h2>Who meets whom</h2>",
        *_topologies(sweep),
        "<h2>Run it again</h2>",
        *_again(again),
    ]
    body = "\n".join(parts)
    return f"{_HEAD.format(name=name, style=_STYLE)}<body>\n{body}\n</body>\n</html>\n"


def _text(said: object) -> str:
    """What somebody wrote, as text of a page: no markup, on one line."""
    return escape(one_line(str(said)))


# -- in words
def _what(sweep: Sweep) -> Iterator[str]:
    first = sweep.experiments[0]
    rows = [*_described(first), ("runs", _runs(sweep))]
    yield "<table>"
    yield from (f"<tr><th>{_text(term)}</th><td>{_text(text)}</td></tr>" for term, text in rows)
    yield "</table>"
    if first.manifest.privacy.mode == "none":
        yield '<p class="none">Mode none: no epsilon holds, and the model may reveal records.</p>'
    if not sweep.axes:
        return
    yield "<p>What was varied, each with each; above, the first of its values stands for it:</p>\n<ul>"
    for axis in sweep.axes:
        values = dict.fromkeys(shown(experiment.varied[axis]) for experiment in sweep.experiments)
        yield f"<li>{_text(axis)}: {_text(', '.join(values))}</li>"
    yield "</ul>"


def _described(experiment: Experiment) -> Iterator[tuple[str, str]]:
    manifest, setting = experiment.manifest, experiment.setting
    dealt = _PARTITIONS[setting.partition].format(
        alpha=setting.alpha, shards=setting.shards, column=setting.column
    )
    yield "data", f"{setting.data}, dealt {dealt}"
    if setting.nodes:
        yield "nodes", str(setting.nodes)
    told = dict(line.split(": ", 1) for line in explain(manifest, StringIO()))
    yield from ((term, told[term]) for term in ("task", "model", "training"))
    yield "averaging", _averaging(experiment)
    yield "privacy", _privacy(manifest.privacy)
    yield "troubles", _troubles(setting)
    yield "engine", f"{setting.engine}, batches {setting.sampling}"


def _averaging(experiment: Experiment) -> str:
    manifest, setting = experiment.manifest, experiment.setting
    name = " ".join([setting.topology or manifest.groups.topology, *setting.topology_parameters])
    if setting.averaging == "none":
        return "none: everybody learns alone"
    if setting.averaging == "neighbours":
        return f"with all neighbours, on {name}, {setting.mixing or 'its own or metropolis'} weights"
    groups = manifest.groups
    return (
        f"{groups.schedule} groups of {groups.size}, {groups.minimum} at least, on {name};"
        f" laid out against {groups.colluders} colluding"
    )


def _privacy(spec: PrivacySpec) -> str:
    if spec.mode == "none":
        return "none"
    whose = "everything that one organisation holds" if spec.mode == "organisation" else "one record"
    return f"{spec.mode}: epsilon {spec.epsilon:g} at delta {spec.delta:g} for {whose}"


def _troubles(setting: Setting) -> str:
    offline = f"a node sits out {setting.offline:.0%} of the rounds" if setting.offline else ""
    attack = f"{setting.attackers} nodes {_ATTACKS[setting.attack]}" if setting.attackers else ""
    return "; ".join(filter(None, (offline, attack))) or "none"


def _runs(sweep: Sweep) -> str:
    seeds = "one seed" if sweep.seeds == 1 else f"{sweep.seeds} seeds"
    points = len(sweep.experiments)
    return seeds if points == 1 else f"{points} points, {seeds} each"


def _summary(rows: Sequence[Row], sweep: Sweep) -> Iterator[str]:
    head, *lines = table(rows, sweep.axes)
    yield '<div class="wide"><table class="numbers">'
    yield "<tr>" + "".join(f"<th>{_text(cell)}</th>" for cell in head) + "</tr>"
    for line in lines:
        yield "<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in line) + "</tr>"
    yield "</table></div>"
    yield from (f"<p>{_text(remark[0].upper() + remark[1:])}.</p>" for remark in remarks(rows))
    yield _EXPLAINED


# -- in pictures
def _figure(title: str, svg: bytes, prefix: str) -> str:
    caption = _text(title[0].upper() + title[1:])
    return f"<figure>\n<figcaption>{caption}</figcaption>\n{inline(svg, prefix)}\n</figure>"


def _topologies(sweep: Sweep) -> Iterator[str]:
    """One drawing for each way to meet, from the first seed."""
    found = {_way(experiment): experiment for experiment in reversed(sweep.experiments)}
    ways = [experiment for experiment in reversed(found.values()) if experiment.setting.averaging != "none"]
    for number, experiment in enumerate(ways[:_DRAWN]):
        drawing = _drawing(experiment)
        what = "the groups of the first round" if drawing.topology.groups else "links of the first round"
        title = f"{drawing.topology.name}, {len(drawing.topology.nodes)} nodes, seed 0: {what}"
        try:
            yield _figure(title, _drawn(drawing), f"t{number}")
        except TopologyError as error:
            yield f"<p>{_text(title)}: not drawn, {_text(error)}</p>"
    if len(ways) > _DRAWN:
        yield f"<p>{len(ways) - _DRAWN} more are not drawn.</p>"
    if not ways:
        yield "<p>Nobody: everybody learns alone.</p>"


def _way(experiment: Experiment) -> object:
    """All that decides who meets whom."""
    setting = experiment.setting
    nodes = setting.data, setting.partition, setting.nodes, setting.column
    graph = setting.topology, setting.topology_parameters, setting.averaging
    return nodes, graph, experiment.manifest.groups


def _drawing(experiment: Experiment) -> Drawing:
    manifest, setting = experiment.manifest, experiment.setting
    below = graph(manifest, setting, _names(experiment), seed=0)
    if setting.averaging != "groups":
        return Drawing(below, below)
    spec = manifest.groups
    met = grouped(below, size=spec.size, minimum=spec.minimum, schedule=spec.schedule, seed=0)
    return Drawing(met, below)


def _names(experiment: Experiment) -> Sequence[str]:
    """Of the nodes, as in the run of the first seed."""
    setting, task = experiment.setting, experiment.manifest.task
    if setting.nodes:
        return [f"n{number:03}" for number in range(setting.nodes)]
    return deal(load(setting, task, experiment.base), setting, task, 0).names


def _drawn(drawing: Drawing) -> bytes:
    with styled():
        (axes,) = panels(1, width=4.5, height=4.5)
        drawing.draw(axes)
        figure = axes.get_figure(root=True)
        assert figure is not None
        return data(figure, ".svg")


# -- again
def _again(again: Again) -> Iterator[str]:
    yield f"<p>With p2pfl-node {_text(version('p2pfl-node'))}:</p>"
    yield f"<pre>{_text(shlex.join(again.words))}</pre>"
    if again.experiment:
        yield "<p>and this experiment:</p>"
        lines = "\n".join(_text(line) for line in again.experiment.splitlines())
        yield f"<pre>{lines}</pre>"
