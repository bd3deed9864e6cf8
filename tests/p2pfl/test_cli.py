"""The command line as an operator meets it: what is printed where, what is left on disk, exit statuses."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from p2pfl import cli
from p2pfl.crypto.identity import Identity
from p2pfl.gossip.manifest import decode_manifest_untrusted
from p2pfl.gossip.tickets import check, parse_ticket_untrusted
from p2pfl.node import errors
from p2pfl.node.config import NodeConfig
from p2pfl.node.errors import ExitCode, StorageError, UserError
from p2pfl.node.start import Prepared
from p2pfl.node.storage.identity_file import load_identity, save_identity
from p2pfl.node.storage.store import Store

ROOT = Path(__file__).parents[2]
ISSUER, MEMBER, GUEST = (Identity.from_seed(bytes([number]) * 32) for number in (1, 2, 3))
TOML = f"""
name = "hearts"
issuers = ["{ISSUER.peer_id}"]
members = ["{MEMBER.peer_id}"]
[task]
label = "num"
positive = ["1", "2"]
[[task.columns]]
name = "age"
kind = "numeric"
low = 20
high = 90
[model]
kind = "logistic"
[training]
rounds = 20
learning_rate = 0.5
sampling_rate = 0.25
expected_batch = 40
[privacy]
mode = "distributed"
epsilon = 2
delta = 1e-4
noise_multiplier = 3.5
statistics_noise_multiplier = 9
evaluation_noise_multiplier = 9
"""

Run = Callable[..., tuple[int, str, str]]


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


def refused(run: Run, status: ExitCode, words: str, *arguments: str) -> str:
    """One line of error and one of hint, on standard error, nothing on standard output; returns both."""
    found, out, err = run(*arguments)
    assert found == status, err
    assert out == ""
    errors_, hints = (
        re.findall(r"^p2pfl: error: (.*)$", err, re.M),
        re.findall(r"^p2pfl: hint: (.*)$", err, re.M),
    )
    assert len(errors_) == len(hints) == 1
    assert words in errors_[0]
    for message in errors_ + hints:
        assert message.isprintable()
        assert not message.endswith(".")
        assert "\x1b" not in message
    return err


# -- the supervisor
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


# -- init
def test_init_makes_an_identity_and_a_config(run: Run) -> None:
    status, out, err = run("init", "a/b")
    assert status == 0
    identity = load_identity(Path("a/b/identity.key"))
    assert out == f"{identity.peer_id}\n"
    assert "p2pfl node --config a/b/node.toml" in err
    assert stat.S_IMODE(Path("a/b").stat().st_mode) == 0o700
    assert sorted(os.listdir("a/b")) == ["identity.key", "node.toml"]


def test_init_overwrites_nothing(run: Run) -> None:
    run("init", "a")
    before = Path("a/identity.key").read_bytes()
    Path("a/node.toml").write_text("mine")
    refused(run, ExitCode.IDENTITY, "exists already", "init", "a")
    assert Path("a/identity.key").read_bytes() == before
    Path("a/node.toml").unlink()
    refused(run, ExitCode.IDENTITY, "exists already", "init", "a")
    assert os.listdir("a") == ["identity.key"]
    Path("a/node.toml").write_text("mine")
    Path("a/identity.key").unlink()
    status, _, err = run("init", "a")
    assert status == 0
    assert "keeping a/node.toml" in err
    assert Path("a/node.toml").read_text() == "mine"


def test_init_in_a_file_is_refused(run: Run) -> None:
    Path("a").write_text("")
    refused(run, ExitCode.STORAGE, "cannot create a/b", "init", "a/b")


# -- federation
@pytest.fixture
def federation(run: Run) -> str:
    """hearts.toml, hearts.manifest and issuer.key in the working directory; the federation's id."""
    Path("hearts.toml").write_text(TOML)
    save_identity(Path("issuer.key"), ISSUER)
    status, out, _ = run("federation", "create", "hearts.toml")
    assert status == 0
    return out.strip()


def test_create_writes_the_manifest_and_says_what_it_means(run: Run) -> None:
    Path("hearts.toml").write_text(TOML)
    status, out, err = run("federation", "create", "hearts.toml", "--out", "x.manifest")
    assert status == 0
    manifest = decode_manifest_untrusted(Path("x.manifest").read_bytes())
    assert out == f"{manifest.federation_id}\n"
    assert "survives 1 member failing" in err
    assert "stays private against 1 colluding" in err
    assert "epsilon 2 at delta 0.0001" in err
    assert "warning" not in err
    assert sorted(os.listdir()) == ["hearts.toml", "x.manifest"]


def test_create_warns_of_a_large_delta(run: Run) -> None:
    Path("hearts.toml").write_text(NOISE.sub("", TOML).replace("delta = 1e-4", "delta = 0.5"))
    status, _, err = run("federation", "create", "hearts.toml")
    assert status == 0
    assert "warning: privacy.delta 0.5 lets one record in 2 be given away whole" in err


def test_creating_again_is_harmless_but_nothing_is_overwritten(run: Run, federation: str) -> None:
    assert run("federation", "create", "hearts.toml")[1] == f"{federation}\n"
    before = Path("hearts.manifest").read_bytes()
    Path("hearts.toml").write_text(TOML.replace("rounds = 20", "rounds = 21"))
    refused(run, ExitCode.FEDERATION, "hearts.manifest exists already", "federation", "create", "hearts.toml")
    assert Path("hearts.manifest").read_bytes() == before


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("delta = 1e-4", "delta = 1.0", "privacy.delta: must be above 0 and below 1, not 1.0"),
        ("epsilon = 2", "epsilon = 2\nclip_norm = 0", "privacy.clip_norm: must be at least 1e-14"),
        ("expected_batch = 40", "expected_batch = 40\nlocal_steps = 5", "training.local_steps: must be 1"),
        ('mode = "distributed"', 'mode = "none"', "privacy.epsilon: must be left out"),
        ('mode = "distributed"\n', "", "privacy.mode: missing"),
        ("[privacy]", "[groups]\nminimum = 2\n[privacy]", "groups.minimum: must be at least 3"),
        ("[training]", "[trainig]", "trainig: unknown field; did you mean training?"),
        ("[model]", "[model", "not valid TOML"),
    ],
)
def test_create_refuses_what_contradicts_itself(run: Run, old: str, new: str, words: str) -> None:
    Path("hearts.toml").write_text(TOML.replace(old, new, 1))
    refused(run, ExitCode.FEDERATION, words, "federation", "create", "hearts.toml")
    assert os.listdir() == ["hearts.toml"]


NOISE = re.compile(r"^\w*noise_multiplier = .*\n", re.M)


def test_create_computes_the_noise_that_the_promise_needs(run: Run) -> None:
    Path("hearts.toml").write_text(NOISE.sub("", TOML))
    assert run("federation", "create", "hearts.toml")[0] == 0
    assert decode_manifest_untrusted(Path("hearts.manifest").read_bytes()).calibrated
    status, out, _ = run("privacy", "--federation", "hearts.manifest", "--json")
    assert status == 0
    assert 1.9 < json.loads(out)["epsilon"] <= 2.0


def test_create_refuses_a_promise_that_no_noise_keeps(run: Run) -> None:
    toml = (
        NOISE.sub("", TOML).replace("epsilon = 2", "epsilon = 1e-5").replace("delta = 1e-4", "delta = 1e-12")
    )
    Path("hearts.toml").write_text(toml)
    words = "no usable noise meets this epsilon and delta"
    refused(run, ExitCode.PRIVACY, words, "federation", "create", "hearts.toml")


def test_create_refuses_less_noise_than_promised_or_a_part_of_it(run: Run) -> None:
    Path("hearts.toml").write_text(TOML.replace("noise_multiplier = 3.5", "noise_multiplier = 0.5"))
    refused(run, ExitCode.PRIVACY, "more than the 2 that is promised", "federation", "create", "hearts.toml")
    Path("hearts.toml").write_text(TOML.replace("noise_multiplier = 3.5\n", ""))
    refused(run, ExitCode.FEDERATION, "but not all", "federation", "create", "hearts.toml")
    assert os.listdir() == ["hearts.toml"]


def test_show_in_words_and_as_json(run: Run, federation: str) -> None:
    status, out, err = run("federation", "show", "hearts.manifest")
    assert (status, err) == (0, "")
    assert out.startswith(f"federation {federation}\nname: hearts\n")
    assert "1 member listed; 1 issuer may admit more by ticket" in out
    status, out, err = run("federation", "show", "hearts.manifest", "--json")
    found = json.loads(out)
    assert found["id"] == federation
    assert found["privacy"]["noise_multiplier"] == 3.5
    assert found["task"]["columns"][0]["name"] == "age"
    refused(run, ExitCode.FEDERATION, "this is the TOML", "federation", "show", "hearts.toml")
    refused(run, ExitCode.FEDERATION, "this is a secret key", "federation", "show", "issuer.key")
    refused(run, ExitCode.FEDERATION, "no such file", "federation", "show", "gone")


def test_no_privacy_is_shown_in_red_to_people_only(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("hearts.toml").write_text(TOML[: TOML.index("[privacy]")] + '[privacy]\nmode = "none"\n')
    assert run("federation", "create", "hearts.toml")[0] == 0
    plain = run("federation", "show", "hearts.manifest")[1]
    assert "privacy: none: no epsilon holds" in plain
    assert "\x1b" not in plain
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "privacy: \x1b[31mnone: no epsilon holds" in run("federation", "show", "hearts.manifest")[1]
    monkeypatch.setenv("NO_COLOR", "1")
    assert run("federation", "show", "hearts.manifest")[1] == plain


def invite(*more: str, peer: str = GUEST.peer_id, identity: str = "issuer.key") -> tuple[str, ...]:
    return ("federation", "invite", peer, "--federation", "hearts.manifest", "--identity", identity, *more)


def test_invite_prints_a_ticket_that_admits(run: Run, federation: str) -> None:
    status, out, err = run(*invite("--days", "2"))
    assert status == 0
    manifest = decode_manifest_untrusted(Path("hearts.manifest").read_bytes())
    ticket = parse_ticket_untrusted(out)
    check(ticket, manifest, ticket.expires - 2 * 86_400, peer=GUEST.peer_id)
    assert "admits" in err
    assert run(*invite("--out", "ticket.txt"))[:2] == (0, "")
    check(
        parse_ticket_untrusted(Path("ticket.txt").read_text()), manifest, ticket.expires, peer=GUEST.peer_id
    )


def test_invite_refuses_what_cannot_work(run: Run, federation: str) -> None:
    save_identity(Path("member.key"), MEMBER)
    refused(run, ExitCode.TICKET, "is not an issuer", *invite(identity="member.key"))
    refused(run, ExitCode.USAGE, "PEER_ID", *invite(peer="12D3Koo"))
    refused(run, ExitCode.USAGE, "--days must be from 1 to 3650", *invite("--days", "0"))
    refused(run, ExitCode.IDENTITY, "no identity file", *invite(identity="gone.key"))
    refused(run, ExitCode.STORAGE, "is not a directory", *invite("--out", "gone/ticket.txt"))
    Path("issuer.key").chmod(0o644)
    refused(run, ExitCode.IDENTITY, "open to others", *invite())


def test_a_full_disk_is_one_line_and_leaves_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise StorageError("cannot write x: the disk is full", "free some space")

    Path("hearts.toml").write_text(TOML)
    monkeypatch.setattr("p2pfl.node.storage.atomic_file.write_atomically", full)
    refused(run, ExitCode.STORAGE, "the disk is full", "federation", "create", "hearts.toml")
    refused(run, ExitCode.STORAGE, "the disk is full", "init", "a")
    assert os.listdir("a") == []


# -- privacy
def test_privacy_of_a_manifest_before_it_runs(run: Run, federation: str) -> None:
    status, out, _ = run("privacy", "--federation", "hearts.manifest")
    assert status == 0
    assert f"federation: hearts ({federation[:12]}…)" in out
    found = re.search(r"epsilon planned: ([\d.]+) of 2, at delta 0.0001", out)
    assert found is not None
    assert re.search(rf"if 1 of a group collude: +{found[1]} +[\d.]+  \(assumed\)", out)
    as_json = json.loads(run("privacy", "--federation", "hearts.manifest", "--json")[1])
    assert round(as_json["epsilon"], 3) == float(found[1])
    costs = [rung["epsilon"] for rung in as_json["ladder"]]
    assert costs == sorted(costs)
    assert costs[0] == as_json["epsilon"] <= as_json["budget"] == 2
    refused(run, ExitCode.USAGE, "one of the arguments --config --federation is required", "privacy")


def test_privacy_of_a_node_without_state(run: Run) -> None:
    run("init", "a")
    refused(run, ExitCode.STORAGE, "no node state in a/state", "privacy", "--config", "a/node.toml")


# -- node
def test_node_checks_its_config_before_anything_heavy(run: Run) -> None:
    refused(run, ExitCode.CONFIG, "node.toml: no such file", "node", "--config", "node.toml")
    refused(run, ExitCode.IDENTITY, "identity: identity.key", "node")
    refused(
        run, ExitCode.CONFIG, "--log-level: unknown level", "node", "--data-train", "x", "--log-level", "loud"
    )
    refused(
        run,
        ExitCode.CONFIG,
        "--bootstrap",
        "node",
        "--data-train",
        "x",
        "--bootstrap",
        "/ip4/127.0.0.1/tcp/1",
    )


CSV = "age,num\n50,0\n60,2\n"


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


def test_node_hands_what_it_opened_to_the_daemon(
    run: Run, home: Path, daemon: list[tuple[Prepared, bool]]
) -> None:
    listen = ("--listen", "/ip4/127.0.0.1/tcp/0", "--listen", "/ip4/127.0.0.1/tcp/1")
    assert run("node", "--config", "home/node.toml", *listen, "--until-done", "--json-logs")[0] == 0
    [(prepared, until_done)] = daemon
    assert until_done
    assert prepared.config.listen == listen[1::2]
    assert prepared.config.json_logs
    assert prepared.identity.peer_id == MEMBER.peer_id
    assert prepared.manifest is not None
    assert prepared.manifest.digest == prepared.federation
    assert prepared.records is not None
    assert prepared.records.test is not None
    assert (len(prepared.records.train), len(prepared.records.test)) == (2, 2)


def edit(path: str, text: str) -> Callable[[], object]:
    return lambda: Path("home", path).write_text(text)


MISTAKES: list[tuple[Callable[[], object], ExitCode, str, str]] = [
    (edit("train.csv", "age,nmu\n50,0\n"), ExitCode.DATA, "data.train: home/train.csv, column num", "show"),
    (edit("train.csv", CSV + "old,0\n"), ExitCode.DATA, "train.csv, line 4, column age: 'old'", "point"),
    (edit("train.csv", CSV.replace(",", ";")), ExitCode.DATA, "data.train: ", "commas"),
    (edit("test.csv", "age\n50\n"), ExitCode.DATA, "data.test: home/test.csv, column num", "show"),
    (lambda: Path("home/test.csv").unlink(), ExitCode.DATA, "data.test: home/test.csv: cannot", "path"),
    (lambda: Path("home/identity.key").unlink(), ExitCode.IDENTITY, "identity: home/identity.key", "init"),
    (lambda: Path("home/identity.key").chmod(0o644), ExitCode.IDENTITY, "mode 0644", "chmod 600"),
    (lambda: Path("hearts.manifest").unlink(), ExitCode.FEDERATION, "federation.id: ", "path"),
    (lambda: Path("hearts.toml").rename("hearts.manifest"), ExitCode.FEDERATION, "federation.id: ", "create"),
]


@pytest.mark.parametrize(("break_it", "status", "words", "remedy"), MISTAKES)
@pytest.mark.parametrize("joined", [False, True])
def test_a_mistake_is_found_before_anything_begins(
    run: Run,
    home: Path,
    daemon: list[tuple[Prepared, bool]],
    break_it: Callable[[], object],
    status: ExitCode,
    words: str,
    remedy: str,
    joined: bool,
) -> None:
    node: tuple[str, ...] = ("node", "--config", "home/node.toml")
    if joined and status != ExitCode.FEDERATION:  # by its id: the manifest is in the state directory
        with Store.open(home / "state", MEMBER) as store:
            store.bind_manifest(Path("hearts.manifest").read_bytes())
        node = (
            *node,
            "--federation",
            decode_manifest_untrusted(Path("hearts.manifest").read_bytes()).federation_id,
        )
    break_it()
    assert remedy in refused(run, status, words, *node)
    assert not daemon


def test_tickets_are_looked_at_before_anything_begins(
    run: Run, home: Path, daemon: list[tuple[Prepared, bool]]
) -> None:
    node = ("node", "--config", "home/node.toml", "--identity", "guest.key")
    save_identity(Path("guest.key"), GUEST)
    err = refused(run, ExitCode.TICKET, "no ticket is configured", *node)
    Path("hearts.manifest").rename("federation.manifest")  # as in the tour of README.md
    Path("organiser").mkdir()
    save_identity(Path("organiser/identity.key"), ISSUER)
    command = re.search(rf"p2pfl (federation invite {GUEST.peer_id} [^;]*);", err)
    assert command
    assert run(*command[1].split())[0] == 0
    Path("federation.manifest").rename("hearts.manifest")
    assert run(*node, "--ticket", "ticket.txt")[0] == 0
    Path("ticket.txt").unlink()
    ticket = (*node, "--ticket", "ticket.txt")
    refused(run, ExitCode.TICKET, "federation.ticket: ticket.txt: no such file", *ticket)
    assert run(*invite("--out", "ticket.txt", peer=ISSUER.peer_id))[0] == 0
    refused(run, ExitCode.TICKET, f"issued to another peer, {ISSUER.peer_id}", *ticket)
    assert len(daemon) == 1
    refused(run, ExitCode.STORAGE, "ticket.txt exists already", *invite("--out", "ticket.txt"))
    Path("ticket.txt").unlink()
    assert run(*invite("--out", "ticket.txt"))[0] == 0
    assert run(*ticket)[0] == 0
    assert len(daemon) == 2


def test_without_the_manifest_data_files_must_at_least_be_readable(
    run: Run, home: Path, federation: str, daemon: list[tuple[Prepared, bool]]
) -> None:
    node: tuple[str, ...] = ("node", "--config", "home/node.toml", "--federation", federation)
    refused(run, ExitCode.CONFIG, "network.bootstrap: not set", *node)
    node = (*node, "--bootstrap", f"/ip4/192.0.2.1/tcp/4001/p2p/{ISSUER.peer_id}")
    assert run(*node)[0] == 0
    [(prepared, _)] = daemon
    assert prepared.manifest is None
    assert prepared.records is None
    refused(run, ExitCode.DATA, "data.train: gone.csv: cannot be read", *node, "--data-train", "gone.csv")
    refused(run, ExitCode.DATA, "data.test: gone: cannot be read", *node, "--data-test", "gone")
    Path("home/test.csv").write_text("")
    refused(run, ExitCode.DATA, "data.test: home/test.csv: the file is empty", *node)
    assert len(daemon) == 1


def test_a_mistake_in_the_data_is_found_without_torch(run: Run, home: Path) -> None:
    (home / "train.csv").write_text("age\n50\n")
    script = (
        "import sys; from p2pfl.cli import main; status = main(sys.argv[1:]);"
        "print(status, 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", script, "node", "--config", "home/node.toml"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "7 False\n"


# -- stopping
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
