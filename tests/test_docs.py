"""What the documents tell people to type is typed here, and what they point to exists."""

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2pfl import cli
from p2pfl.topologies.registry import entries

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "CONTRIBUTING.md"]
SHOWN = {
    "privacy.md": ("epsilon planned", "signal/noise", "accuracy: mean"),
    "scenarios.md": ("every sum was that of its survivors", "every answer the same"),
    "tasks.md": ("plug-in late_months",),
    "handbook.md": ("secure sum: skipped", "phase: ", "the doctor ends with 8", "every page of"),
    "simulation.md": ("spectral gap", "leverage", "worst node"),
    "topologies.md": ("by the closed form 0.200000", "grid", "westbridge-general", "1,000,000 parameters"),
}
SHOWN_SLOWLY = {
    "tasks.md": ("the last model: {'weight'", "rounds: 10 of 10 in training"),
    "handbook.md": ("epsilon spent: 0.000 of 4",),
}
TESTED = re.compile(r"<!-- tested( slowly)? -->\n```sh\n(.*?)```", re.DOTALL)
DRAWN = re.compile(r"<!-- drawn -->\n```sh\n(.*?)```", re.DOTALL)


def commands(page: Path, *, slowly: bool = False) -> str:
    """Those of the page; with those that take a federation of processes if ``slowly``."""
    blocks = TESTED.findall(page.read_text(encoding="utf-8"))
    return "".join(block for slow, block in blocks if slowly or not slow)


RUNS = [
    *(pytest.param(page, False) for page in PAGES if commands(page)),
    *(
        pytest.param(page, True, marks=pytest.mark.slow)
        for page in PAGES
        if commands(page, slowly=True) != commands(page)
    ),
]


def with_free_ports(script: str) -> str:
    """The pages' ports 4001, 4002 and 4003 may be taken on this machine."""
    for port in ("4001", "4002", "4003"):
        with socket.create_server(("127.0.0.1", 0)) as server:
            script = script.replace(port, str(server.getsockname()[1]))
    return script


@pytest.mark.parametrize(("page", "slowly"), RUNS, ids=lambda value: getattr(value, "name", None))
def test_the_commands_on_a_page_work(page: Path, slowly: bool, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    shutil.copytree(ROOT / "examples" / "wards", tmp_path / "wards")
    script = tmp_path / "commands"
    prelude = "set -eum\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n"
    script.write_text(prelude + with_free_ports(commands(page, slowly=slowly)))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", script],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    shown = SHOWN.get(page.name, ("epsilon spent", "accuracy"))
    for words in (*shown, *(SHOWN_SLOWLY[page.name] if slowly else ())):
        assert words in done.stdout


def test_the_page_on_models_shows_commands_that_another_page_runs() -> None:
    """It needs a federation that has ended: one is enough for both pages."""
    run = " ".join(commands(ROOT / "docs" / "own-servers.md").split())
    page = (ROOT / "docs" / "model.md").read_text(encoding="utf-8")
    shown = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    lines = "".join(shown).replace("\\\n", "").splitlines()
    assert len(lines) > 4
    for line in lines:
        assert " ".join(line.split()) in run.replace("\\ ", ""), line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http:", "https:")):
            assert (page.parent / target).exists(), f"{page.name} points to {target}"


def test_every_plot_is_drawn_by_a_command_beside_it() -> None:
    """`make plots` runs the commands; here they are only read, and must be ones that exist."""
    shown = set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        written = {name for script in DRAWN.findall(text) for name in files_of(script)}
        for picture in re.findall(r"\]\(plots/([^)]+)\)", text):
            assert picture.partition("/")[0] in written, f"nothing on {page.name} draws {picture}"
            shown.add(picture)
    kept = ROOT / "docs" / "plots"
    assert {path.relative_to(kept).as_posix() for path in kept.rglob("*.svg")} == shown


def files_of(script: str) -> Iterator[str]:
    """Words of ``script`` that may name what it writes. SystemExit or UsageError for what is no command."""
    for line in script.replace("\\\n", " ").splitlines():
        program, *words = shlex.split(line)
        assert program == "p2pfl"
        cli.build_parser(words).parse_args(words)
        yield from words


def test_the_gallery_has_every_family() -> None:
    drawn = (ROOT / "docs" / "plots" / "gallery.svg").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "topologies.md").read_text(encoding="utf-8")
    for name in entries():
        assert re.search(rf">{name}[,<]", drawn), f"{name} is not in the gallery: `make plots`"
        assert f"`{name}`" in page
