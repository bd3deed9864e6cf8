"""The command line as an operator meets it: exit statuses, what is printed where, help."""

import re
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest
from command_line import Run, refused

from p2pfl import cli
from p2pfl.node import errors
from p2pfl.node.errors import ExitCode, UserError

ROOT = Path(__file__).parents[3]


def test_a_usage_error_is_status_2_with_a_hint(run: Run) -> None:
    refused(run, ExitCode.USAGE, "COMMAND")
    assert "did you mean node?" in refused(run, ExitCode.USAGE, "unknown command 'nod'", "nod")
    refused(run, ExitCode.USAGE, "FILE.toml", "federation", "create")
    err = refused(run, ExitCode.USAGE, "unrecognized arguments: --boostrap x", "node", "--boostrap", "x")
    assert "did you mean --bootstrap?; see `p2pfl node --help`" in err
    err = refused(run, ExitCode.USAGE, "unrecognized arguments: a.toml", "node", "a.toml")
    assert "did you mean --config a.toml?" in err
    refused(run, ExitCode.USAGE, "--rounds must be at least 1", "demo", "--rounds", "0")
    refused(run, ExitCode.USAGE, "invalid int value", "demo", "--rounds", "many")


def test_every_user_error_ends_in_its_own_status(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, UserError)]
    for kind in kinds:

        def fail(*_: object, kind: type[UserError] = kind) -> None:
            fields = ("field", "what", "why") if kind is errors.ConfigError else ("field: what", "why")
            raise kind(*fields)

        monkeypatch.setattr(cli, "build_parser", fail)
        status, out, err = run("init", "x")
        assert (status, out, err) == (kind.exit_code, "", "p2pfl: error: field: what\np2pfl: hint: why\n")
    statuses = {kind.exit_code for kind in kinds}
    assert statuses == set(ExitCode) - {ExitCode.OK, ExitCode.BUG, ExitCode.INTERRUPTED}


def test_a_bug_says_that_it_is_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("oops")

    monkeypatch.setattr(cli, "build_parser", fail)
    status, _, err = run("init", "x")
    assert status == ExitCode.BUG
    assert "RuntimeError: oops" in err
    assert "p2pfl: error: unexpected RuntimeError: this is a bug in p2pfl" in err


def test_ctrl_c_is_status_130_without_a_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "build_parser", fail)
    assert run("init", "x") == (ExitCode.INTERRUPTED, "", "p2pfl: error: interrupted\n")


def test_control_characters_never_reach_the_terminal(run: Run) -> None:
    err = refused(run, ExitCode.FEDERATION, "no such file", "federation", "show", "a\x1b[2J\nb")
    assert err.count("\n") == 2


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    command = [sys.executable, "-m", "p2pfl", "federation", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()


FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    "words",
    [
        ("--version",),
        ("node", "--help"),
        ("federation", "show", "--json", "hearts.manifest"),
        ("privacy", "--federation", "hearts.manifest"),
    ],
)
def test_output_that_cannot_be_written_is_a_matter_of_storage(
    words: tuple[str, ...], federation: str, tmp_path: Path
) -> None:
    with FULL.open("wb") as full:
        done = process(*words, cwd=tmp_path, stdout=full)
    assert done.returncode == ExitCode.STORAGE
    assert "p2pfl: error: cannot write the output: no space left on device\np2pfl: hint: " in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def process(*words: str, cwd: Path, stdout: IO[bytes]) -> subprocess.CompletedProcess[str]:
    """Run the command as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "p2pfl", *words],
        cwd=cwd,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )


def test_exit_codes_are_documented() -> None:
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", (ROOT / "docs" / "exit-codes.md").read_text(), re.M)
    assert rows == [(str(int(code)), code.meaning) for code in ExitCode]


@pytest.mark.parametrize(
    "words",
    [
        (),
        *((name,) for name in cli.COMMANDS),
        ("federation", "create"),
        ("federation", "show"),
        ("federation", "invite"),
    ],
)
def test_every_command_has_help(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([*words, "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(" ".join(("usage: p2pfl", *words)))
    assert "help" in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert re.fullmatch(r"p2pfl \d+\.\d+\.\d+\n", capsys.readouterr().out)
