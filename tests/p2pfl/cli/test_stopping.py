"""Signals to `p2pfl node`: a clean end at any time, and nohup."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import Run

SIGNALLED = """
import signal, sys, types
import p2pfl.commands.node as command
from p2pfl import cli

def stop(*_, **__):
    signal.raise_signal(signal.{name})
    print("went on")
    return 5

{place}
sys.exit(cli.main(["node", "--config", "home/node.toml"]))
"""
PLACES = {
    "reading the config": "command.load_config = stop",
    "at the end of the imports": "sys.modules['p2pfl.node.daemon'] = types.SimpleNamespace(run_node=stop)",
}


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("SIGTERM", "reading the config"),
        ("SIGINT", "at the end of the imports"),
        ("SIGHUP", "at the end of the imports"),
    ],
)
def test_a_stop_during_the_start_is_a_clean_end(run: Run, home: Path, name: str, place: str) -> None:
    done = signalled(name, PLACES[place])
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"p2pfl: {name}: stopping; what was committed is kept\n"


def signalled(name: str, place: str, *before: str) -> subprocess.CompletedProcess[str]:
    script = SIGNALLED.format(name=name, place=place)
    command = [*before, sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)


def test_nohup_outlives_its_terminal(run: Run, home: Path) -> None:
    place = PLACES["at the end of the imports"]
    done = signalled("SIGHUP", place, "nohup")
    assert (done.returncode, done.stdout) == (5, "went on\n")
    assert signalled("SIGTERM", place, "nohup").returncode == 0


def test_a_running_node_ends_cleanly_when_its_terminal_closes(run: Run, home: Path) -> None:
    command = [sys.executable, "-m", "p2pfl", "node", "--config", "home/node.toml"]
    listen = ("--listen", "/ip4/127.0.0.1/tcp/0")
    with subprocess.Popen(
        [*command, *listen], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as node:
        assert node.stdout is not None
        assert node.stdout.readline().startswith("listening on /ip4/127.0.0.1/tcp/")
        node.send_signal(signal.SIGHUP)
        try:
            _, err = node.communicate(timeout=60)
        finally:
            node.kill()
        assert node.returncode == 0
    assert "SIGHUP: stopping; what was committed is kept" in err
    assert "Traceback" not in err
