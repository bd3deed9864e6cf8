"""The command line in an empty directory, a federation in it, and a member that would start."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import CSV, ISSUER, MEMBER, TOML, Run

from p2pfl import cli
from p2pfl.node.config import NodeConfig
from p2pfl.node.start import Prepared
from p2pfl.node.storage.identity_file import save_identity


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command line in an empty directory: status, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith("P2PFL_"):
            monkeypatch.delenv(name)

    def call(*arguments: str) -> tuple[int, str, str]:
        status = cli.main(arguments)
        out, err = capsys.readouterr()
        return status, out, err

    return call


@pytest.fixture
def federation(run: Run) -> str:
    """hearts.toml, hearts.manifest and issuer.key in the working directory; the federation's id."""
    Path("hearts.toml").write_text(TOML)
    save_identity(Path("issuer.key"), ISSUER)
    status, out, _ = run("federation", "create", "hearts.toml")
    assert status == 0
    return out.strip()


@pytest.fixture
def home(run: Run, federation: str) -> Path:
    """A listed member's directory that would start: config, key, records; the manifest is beside it."""
    home = Path("home")
    home.mkdir()
    save_identity(home / "identity.key", MEMBER)
    (home / "train.csv").write_text(CSV)
    (home / "test.csv").write_text("age,num\n40,1\n70,0\n")
    (home / "node.toml").write_text(
        '[federation]\nid = "../hearts.manifest"\n[data]\ntrain = "train.csv"\ntest = "test.csv"\n'
    )
    return home


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Prepared, bool]]:
    """In place of the daemon: what it was started with. It is not imported, so that nothing can begin."""
    started: list[tuple[Prepared, bool]] = []

    class Daemon:
        @staticmethod
        def run_node(prepared: Prepared, *, until_done: bool, reread: Callable[[], NodeConfig]) -> int:
            assert reread() == prepared.config
            started.append((prepared, until_done))
            return 0

    monkeypatch.setitem(sys.modules, "p2pfl.node.daemon", Daemon)
    return started
