"""What is in deploy/ fits the code: ports, statuses, folders, commands."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from p2pfl.node.errors import ExitCode
from p2pfl.node.reload import SIGNAL

DEPLOY = Path(__file__).parents[1] / "deploy"
PROJECT = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text(encoding="utf-8"))
UNIT = (DEPLOY / "p2pfl@.service").read_text(encoding="utf-8")
CONTAINER = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
COMPOSE = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
IGNORED = (DEPLOY / "Containerfile.dockerignore").read_text(encoding="utf-8")


def setting(name: str) -> str:
    (value,) = re.findall(f"^{name}=(.*)$", UNIT, re.MULTILINE)
    return str(value)


def test_systemd_does_not_start_again_what_a_restart_does_not_mend() -> None:
    hopeless = {ExitCode.USAGE, ExitCode.CONFIG, ExitCode.IDENTITY, ExitCode.FEDERATION}
    hopeless |= {ExitCode.TICKET, ExitCode.DATA, ExitCode.PRIVACY}
    assert set(map(int, setting("RestartPreventExitStatus").split())) == set(map(int, hopeless))


def test_systemd_reloads_with_the_signal_that_reloads() -> None:
    assert setting("ExecReload") == f"/bin/kill -{SIGNAL.name.removeprefix('SIG')} $MAINPID"
    assert setting("Type") == "notify"
    assert int(setting("TimeoutStopSec")) > 8 < int(setting("WatchdogSec"))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "p2pfl@hearts.service"
    unit.write_text(UNIT.replace("/opt/p2pfl/bin/p2pfl", sys.executable), encoding="utf-8")
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_image_has_every_package_and_nothing_that_is_ignored() -> None:
    folders = {"p2pfl", *PROJECT["tool"]["setuptools"]["package-dir"].values()}
    copied = {
        word
        for line in re.findall(r"^COPY (?!--from)(.*)$", CONTAINER, re.MULTILINE)
        for word in line.split()[:-1]
    }
    assert folders <= copied
    assert copied == {line.removeprefix("!") for line in IGNORED.splitlines() if line.startswith("!")}
    assert all((DEPLOY.parent / name).exists() for name in copied)


def test_the_health_check_asks_where_the_pages_are() -> None:
    (listen,) = re.findall(r"P2PFL_STATUS_LISTEN=(\S+)", CONTAINER)
    assert f"http://{listen}/health" in CONTAINER
    assert "P2PFL_STATUS_LISTEN" not in COMPOSE


@pytest.mark.slow
def test_the_set_up_makes_directories_that_nodes_accept(tmp_path: Path) -> None:
    from real_federation import p2pfl

    command = Path(sys.executable).parent
    for said in ("", "the federation is there already\n"):
        done = subprocess.run(
            ["sh", DEPLOY / "setup.sh", tmp_path],
            env={"PATH": f"{command}:/usr/bin:/bin"},
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stdout) == (0, said), done.stderr
    for name in re.findall(r"- (\w+):/federation/\w+", COMPOSE)[1:]:
        directory = tmp_path / name
        config = (directory / "node.toml").read_text()
        assert (name == "cleveland") == ("bootstrap" not in config)
        assert f"/dns4/{name}/tcp/4001" in config
        assert (directory / "identity.key").stat().st_mode & 0o077 == 0
        assert {"train.csv", "test.csv", "ticket.txt"} <= {path.name for path in directory.iterdir()}
    p2pfl("federation", "show", tmp_path / "cleveland" / "hearts.manifest")
