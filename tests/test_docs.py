"""What the documents tell people to type is typed here, and what they point to exists."""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "CONTRIBUTING.md"]
SHOWN = {"privacy.md": ("epsilon planned", "signal/noise", "accuracy: mean")}
TESTED = re.compile(r"<!-- tested -->\n```sh\n(.*?)```", re.DOTALL)


def commands(page: Path) -> str:
    return "".join(TESTED.findall(page.read_text(encoding="utf-8")))


def with_free_ports(script: str) -> str:
    """The pages' ports 4001, 4002 and 4003 may be taken on this machine."""
    for port in ("4001", "4002", "4003"):
        with socket.create_server(("127.0.0.1", 0)) as server:
            script = script.replace(port, str(server.getsockname()[1]))
    return script


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.name)
def test_the_commands_on_a_page_work(page: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    shutil.copytree(ROOT / "examples" / "wards", tmp_path / "wards")
    script = tmp_path / "commands"
    prelude = "set -eum\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n"
    script.write_text(prelude + with_free_ports(commands(page)))
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
    for words in SHOWN.get(page.name, ("epsilon spent", "accuracy")):
        assert words in done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http:", "https:")):
            assert (page.parent / target).exists(), f"{page.name} points to {target}"
