"""The plots and the page that `p2pfl simulate` writes: right, self-contained, and harmless whatever the user
wrote.
"""

import re
import shlex
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from typing import Final

import pytest
import torch
from PIL import Image

from p2pfl import cli, figures
from p2pfl.simulation import runs
from p2pfl.simulation.experiment import Sweep, read
from p2pfl.simulation.plots import ALONG, MEASURES, MOST_LINES, curves, plots
from p2pfl.simulation.report import Again, page, write
from p2pfl.simulation.running import Row

torch.set_num_threads(1)
NAME: Final = "</title><script>document.title = 'taken'</script> $a$ & co"
TEXT: Final = f"""
name = "{NAME}"
[simulation]
nodes = 9
topology = ["ring", "random_regular"]
seeds = 2
[groups]
size = 4
[privacy]
mode = "none"
"""
AXES: Final = ["simulation.topology"]
AGAIN: Final = Again(["p2pfl", "simulate", "it's <here>.toml"], TEXT)
BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome")
VOID: Final = {"meta", "br", "img", "link", "input"}


def row(point: str, seed: int, round: int, **more: object) -> Row:
    numbers = {"accuracy": 0.5 + 0.1 * seed, "accuracy_mean": 0.5, "accuracy_least": 0.4, "loss": 0.7}
    moved = {"consensus": 0.1 * round, "attended": 1.0, "epsilon": None, "bytes": 1000 * round}
    return {"simulation.topology": point, "seed": seed, "round": round, **numbers, **moved, **more}


ROWS: Final = [
    row(point, seed, round)
    for point in ("ring", "random_regular")
    for seed in (0, 1)
    for round in (0, 10, 20)
]


def sweep(text: str = TEXT) -> Sweep:
    return read(text, Path())


class Page(HTMLParser):
    """What a page holds; AssertionError if its elements are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def within(self, tag: str) -> list[str]:
        return [text for inside, text in self.texts if inside == tag]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    *pictures, written = write(ROWS, sweep(), tmp_path_factory.mktemp("report"), AGAIN)
    assert all(picture.suffix == ".svg" for picture in pictures)
    return written


def test_the_page_needs_nothing_else_and_runs_nothing(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    found = Page(text)
    ids = [values["id"] for _, values in found.elements if "id" in values]
    assert len(ids) == len(set(ids))
    pointed = {value[1:] for _, values in found.elements for name, value in values.items() if name == "href"}
    pointed |= set(re.findall(r"url\(#([^)]+)\)", text))
    assert pointed <= set(ids)
    assert pointed
    assert not {tag for tag, _ in found.elements} & {
        "script",
        "link",
        "img",
        "iframe",
        "object",
        "base",
        "form",
    }
    assert not [name for _, values in found.elements for name in values if name.startswith(("on", "src"))]
    assert "://" not in text
    assert text.count("url(") == text.count("url(#")
    policy = [values["content"] for tag, values in found.elements if "http-equiv" in values and tag == "meta"]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_the_page_says_all_there_is_to_say(report: Path) -> None:
    found = Page(report.read_text(encoding="utf-8"))
    assert found.within("title") == found.within("h1") == [f"Simulation: {NAME}"]
    heads = ["What was simulated", "How it ended", "How it went", "Who meets whom", "Run it again"]
    assert found.within("h2") == heads
    cells = found.within("td")
    assert {"heart_disease, dealt at random, as many to each", "9", "2 points, 2 seeds each"} <= set(cells)
    assert {"0.550 ± 0.071", "ring", "random_regular"} <= set(cells)
    assert "Mode none: no epsilon holds, and the model may reveal records." in found.within("p")
    assert "p2pfl simulate 'it'\"'\"'s <here>.toml'" in found.within("pre")
    assert TEXT.strip() in "".join(found.within("pre"))
    captions = found.within("figcaption")
    assert captions[:3] == [
        "Accuracy of the mean model against rounds",
        "Consensus distance against rounds",
        "MB sent by a node against rounds",
    ]
    assert [caption.partition(",")[0] for caption in captions[3:]] == [
        "Random groups of 4 on ring",
        "Random groups of 4 on random_regular",
    ]
    assert sum(tag == "svg" for tag, _ in found.elements) == len(captions)
    assert {"topology ring", "topology random_regular", "n008"} <= set(map(str.strip, found.within("text")))


def test_the_same_rows_make_the_same_page(report: Path) -> None:
    again = next(plots(ROWS, AXES))
    assert (report.parent / again.name).read_bytes() == again.svg
    text = report.read_text(encoding="utf-8")
    assert page(ROWS, sweep(), [], AGAIN).partition("<h2>Who")[2] == text.partition("<h2>Who")[2]


def browser() -> str:
    found = [path for path in map(shutil.which, BROWSERS) if path]
    if not found:
        pytest.skip(f"no browser here: {', '.join(BROWSERS)}")
    return found[0]


def browse(page: Path, profile: Path, *options: str) -> str:
    """What the browser prints, offline: any name resolves to nothing."""
    always = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
    offline = ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={profile}"]
    command = [browser(), *always, *offline, *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def test_a_browser_shows_it(report: Path, tmp_path: Path) -> None:
    shot = tmp_path / "shot.png"
    words = ["--dump-dom", "--window-size=900,4000", f"--screenshot={shot}"]
    shown = Page(re.sub("<!DOCTYPE.*?>", "", browse(report, tmp_path / "profile", *words[:1])))
    written = Page(report.read_text(encoding="utf-8"))
    assert shown.within("title") == [f"Simulation: {NAME}"]  # and not: taken
    tags = [tag for tag, _ in written.elements if tag != "tbody"]
    assert [tag for tag, _ in shown.elements if tag != "tbody"] == tags
    browse(report, tmp_path / "profile", *words[1:])
    with Image.open(shot) as image:
        assert image.size == (900, 4000)
        colours = {pixel for _, pixel in image.convert("RGB").getcolors(1 << 24) or ()}
    wanted = {tuple(bytes.fromhex(colour[1:])) for colour in figures.COLOURS[:2]}
    assert wanted <= colours, "the lines of the plots and the nodes of the groups are not to be seen"


def test_a_curve_is_the_mean_of_its_seeds() -> None:
    ring, other = curves(ROWS, AXES, ALONG[0], MEASURES[0])
    assert (ring.label, other.label) == ("topology ring", "topology random_regular")
    assert ring.along == [0, 10, 20]
    assert ring.mean == pytest.approx([0.55] * 3)
    assert ring.deviation == pytest.approx([0.1 / 2**0.5] * 3)
    (sent, _) = curves(ROWS, AXES, ALONG[0], MEASURES[3])
    assert sent.mean == pytest.approx([0, 0.01, 0.02])


def test_what_is_measured_is_what_is_plotted(report: Path) -> None:
    assert {path.name for path in report.parent.glob("*.svg")} == {
        "accuracy-by-round.svg",
        "consensus-by-round.svg",
        "bytes-by-round.svg",
    }
    timed = [
        row("ring", seed, round, seconds=2.5 * round, epsilon=1.0) for seed in (0, 1) for round in (0, 10)
    ]
    names = [plot.name for plot in plots([*timed, row("other", 0, 0)], AXES)]
    assert names == [f"{y.column}-by-{x.column}.svg" for x in ALONG for y in MEASURES]
    (curve,) = curves([*timed, row("other", 0, 0)], AXES, ALONG[1], MEASURES[2])
    assert (curve.along, curve.mean) == ([0, 25], [1, 1])


def test_of_many_points_the_best_are_plotted() -> None:
    rows = [row(f"point{number}", 0, 0, accuracy=number / 100) for number in range(20)]
    (accuracy, *_) = plots(rows, AXES)
    labels = re.findall(r"topology point(\d+)", accuracy.svg.decode())
    assert sorted(map(int, labels)) == list(range(20 - MOST_LINES, 20))


def test_hospitals_are_drawn_by_name_and_crowds_are_not() -> None:
    natural = page([row("", 0, 0)], sweep('[simulation]\npartition = "natural"\n'), [], AGAIN)
    assert "cleveland" in map(str.strip, Page(natural).within("text"))
    crowd = page([row("", 0, 0)], sweep("[simulation]\nnodes = 2000\n"), [], AGAIN)
    assert "2000 nodes are too many to draw" in crowd


@pytest.fixture
def in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """No processes of its own for a sweep."""
    monkeypatch.setattr(runs, "cores", lambda count: ThreadPoolExecutor(1))


SIMULATE: Final = [
    "simulate",
    "--nodes",
    "4",
    "--rounds",
    "2",
    "--mode",
    "none",
    "--topology",
    "ring,complete",
]


@pytest.mark.usefixtures("in_a_thread")
def test_the_command_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*SIMULATE, "--output", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().err.splitlines()
    assert told[-1] == f"p2pfl: wrote {tmp_path}/out/report.html"
    found = Page((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    assert found.within("pre") == [shlex.join(["p2pfl", *SIMULATE[:3], *again(tmp_path / "out")])]


def again(directory: Path) -> list[str]:
    """The options behind --nodes, as the report says them."""
    return ["--topology", "ring,complete", "--rounds", "2", "--mode", "none", "--output", str(directory)]


@pytest.mark.usefixtures("in_a_thread")
def test_without_matplotlib_there_are_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "find_spec", lambda name: None)
    assert cli.main([*SIMULATE, "--output", str(tmp_path)]) == 0
    assert (
        "no plots and no report, for want of matplotlib: pip install 'p2pfl-node[plots]'"
        in capsys.readouterr().err
    )
    assert {path.name for path in tmp_path.iterdir()} == {"results.csv", "results.parquet", "runs.jsonl"}
