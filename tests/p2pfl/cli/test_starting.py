"""`p2pfl node`: what it looks at before anything begins, and what it hands to the daemon."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import CSV, GUEST, ISSUER, MEMBER, Run, invite, refused

from p2pfl.gossip.manifest import decode_manifest_untrusted
from p2pfl.node.errors import ExitCode
from p2pfl.node.start import Prepared
from p2pfl.node.storage.identity_file import save_identity
from p2pfl.node.storage.store import Store


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
