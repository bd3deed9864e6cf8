"""`p2pfl doctor`: with members on threads, in the place of a node, and beside one."""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from p2pfl import cli
from p2pfl.crypto.identity import Identity
from p2pfl.gossip.manifest import Manifest, canonical_bytes, from_toml
from p2pfl.gossip.tickets import issue
from p2pfl.heart_disease import FEDERATION_TOML, write_hospital
from p2pfl.node.config import Endpoint, NodeConfig, load_config
from p2pfl.node.doctor import directory as directory_checks
from p2pfl.node.doctor import examine_node, findings, machine, members, rounds
from p2pfl.node.doctor.known import Ended, Known
from p2pfl.node.errors import ExitCode, IdentityError
from p2pfl.node.examination import REQUEST as EXAMINATION
from p2pfl.node.examination import Examined, Examiner
from p2pfl.node.finding.dialback import REQUEST as DIALBACK
from p2pfl.node.finding.dialback import Dialback
from p2pfl.node.membership.admission import FederationAdmission
from p2pfl.node.membership.rotation import next_key
from p2pfl.node.monitoring.participation import Share
from p2pfl.node.monitoring.status import Status
from p2pfl.node.monitoring.status_server import Page, StatusServer
from p2pfl.node.start import prepared
from p2pfl.node.storage.check import Checked
from p2pfl.node.storage.identity_file import save_identity
from p2pfl.node.storage.lock import locked
from p2pfl.node.storage.store import Store
from p2pfl.node.transport.network import Limits, Transport

OWN, OTHER, ISSUER = (Identity.from_seed(bytes([number]) * 32) for number in (1, 2, 3))
STATE = Path("state")


def agreed() -> Manifest:
    draft = from_toml(FEDERATION_TOML.read_text(encoding="utf-8").replace("ISSUER", ISSUER.peer_id))
    return replace(draft, privacy=draft.privacy.with_mode("none"), members=(OTHER.peer_id,))


MANIFEST = agreed()


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node before its first start: it has a key, a ticket, records, and the federation's id."""
    monkeypatch.chdir(tmp_path)
    save_identity(Path("identity.key"), OWN)
    write_hospital(Path(), "va")
    write_ticket(30)
    write_config()


def write_ticket(days: float) -> None:
    expires = int(time.time() + days * 86_400)
    ticket = issue(ISSUER, federation=MANIFEST.digest, peer=OWN.peer_id, expires=expires)
    Path("ticket.txt").write_text(f"{ticket}\n")


def write_config(network: str = "", federation: str = MANIFEST.federation_id) -> None:
    Path("node.toml").write_text(
        f'[federation]\nid = "{federation}"\nticket = "ticket.txt"\n[data]\ntrain = "train.csv"\n'
        f'[network]\nlisten = ["/ip4/127.0.0.1/tcp/{free_port()}"]\n{network}\n'
    )


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def member() -> Iterator[str]:
    """Another member's node, as far as the doctor asks it, on a thread of its own; its address."""
    admission = FederationAdmission(MANIFEST.digest, OTHER.peer_id, None, MANIFEST)

    async def manifest(peer: str, body: bytes) -> bytes:
        return canonical_bytes(MANIFEST)

    async def dial_back(peer: Any, body: bytes) -> bytes:
        return await Dialback(node).answer(peer, body)

    node = Transport(
        OTHER,
        ("/ip4/127.0.0.1/tcp/0",),
        admission,
        f"/p2pfl/{MANIFEST.federation_id}",
        Limits(),
        {
            "manifest": manifest,
            DIALBACK: dial_back,
            EXAMINATION: Examiner(MANIFEST.digest, OTHER.peer_id).answer,
        },
    )
    with on_a_thread(node.run) as started:
        started()
        yield node.addresses[0]


@contextmanager
def on_a_thread(serve: Any, *arguments: Any) -> Iterator[Any]:
    """Yields what waits until it is started, and gives what it then reported."""
    ready, scopes, reported = threading.Event(), [], []

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            scopes.append((trio.lowlevel.current_trio_token(), nursery.cancel_scope))
            reported.append(await nursery.start(serve, *arguments))
            ready.set()

    def started() -> Any:
        assert ready.wait(20)
        return reported[0]

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    try:
        yield started
    finally:
        token, scope = scopes[0]
        trio.from_thread.run_sync(scope.cancel, trio_token=token)
        thread.join(20)


def doctor(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, dict[str, dict[str, Any]]]:
    status = cli.main(["doctor", "--config", "node.toml", "--json", *options])
    return status, {one["check"]: one for one in json.loads(capsys.readouterr().out)}


# -- before
def test_before_the_first_start_with_a_member(capsys: pytest.CaptureFixture[str]) -> None:
    with member() as address:
        write_config(f'bootstrap = ["{address}"]')
        begun = time.monotonic()
        status, found = doctor(capsys)
    assert time.monotonic() - begun < 20
    assert status == 0, found
    bad = {name: one for name, one in found.items() if one["state"] in ("failure", "warning")}
    assert not bad
    for name in (
        "members",
        "reachable",
        "secure sum",
        "clocks",
        "software",
        "ticket",
        "data",
        "memory",
        "port",
    ):
        assert found[name]["state"] == "ok", found[name]
    assert found["reachable"]["said"].startswith(f"both ways: {OTHER.peer_id} reached /ip4/127.0.0.1/tcp/")
    assert "keys, masks and sums agree with 1 of 1" in found["secure sum"]["said"]
    assert found["ticket"]["said"] == "30.0 days left"
    assert os.listdir(STATE) == ["lock"], "the doctor left something"


def test_alone_it_says_what_it_could_not_look_at(capsys: pytest.CaptureFixture[str]) -> None:
    status, found = doctor(capsys)
    assert status == 0
    assert found["members"]["state"] == found["secure sum"]["state"] == "skipped"
    assert "network.bootstrap" in found["members"]["said"]


def test_a_member_that_is_not_there_and_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    gone = f"/ip4/127.0.0.1/tcp/{free_port()}/p2p/{OTHER.peer_id}"
    write_config(f'bootstrap = ["{gone}"]')
    port = int(Path("node.toml").read_text().partition("/tcp/")[2].partition('"')[0])
    with socket.create_server(("127.0.0.1", port)):
        status, found = doctor(capsys, "--quiet")
    assert status == ExitCode.NETWORK
    assert set(found) == {"port", "members"}
    assert "address already in use" in found["port"]["said"]
    assert "connection refused" in found["members"]["said"]


def test_a_port_that_is_taken_between_two_looks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2pfl.node.doctor.network.ports", lambda _: findings.ok("port", "free"))
    port = int(Path("node.toml").read_text().partition("/tcp/")[2].partition('"')[0])
    with socket.create_server(("0.0.0.0", port)):
        status, found = doctor(capsys)
    assert status == 0
    assert "cannot listen on" in found["members"]["said"]


def test_names_that_lead_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    here = f"/dns4/localhost/tcp/1/p2p/{OTHER.peer_id}"
    write_config(f'announce = ["/dns4/nowhere.invalid/tcp/4001"]\nbootstrap = ["{here}"]')
    status, found = doctor(capsys)
    assert status == ExitCode.NETWORK
    assert found["dns"]["said"].startswith("network.announce: nowhere.invalid: ")


@pytest.mark.parametrize(
    ("file", "check", "code"),
    [
        ("identity.key", "identity", ExitCode.IDENTITY),
        ("ticket.txt", "ticket", ExitCode.TICKET),
        ("train.csv", "data", ExitCode.DATA),
    ],
)
def test_the_first_failure_is_the_exit_status(
    capsys: pytest.CaptureFixture[str], file: str, check: str, code: ExitCode
) -> None:
    Path("agreed.manifest").write_bytes(canonical_bytes(MANIFEST))
    write_config(federation="agreed.manifest")
    Path(file).unlink()
    status, found = doctor(capsys)
    assert status == code
    assert (found[check]["state"], found[check]["exit_code"]) == ("failure", int(code))
    assert found[check]["hint"]


def test_a_ticket_with_few_days_left(capsys: pytest.CaptureFixture[str]) -> None:
    Path("agreed.manifest").write_bytes(canonical_bytes(MANIFEST))
    write_config(federation="agreed.manifest")
    write_ticket(3)
    status, found = doctor(capsys)
    assert (status, found["ticket"]["state"], found["ticket"]["said"]) == (0, "warning", "3.0 days left")


def test_records_that_are_learnt_from_and_measured_on(capsys: pytest.CaptureFixture[str]) -> None:
    Path("agreed.manifest").write_bytes(canonical_bytes(MANIFEST))
    write_config(federation="agreed.manifest")
    lines = Path("train.csv").read_text().splitlines(keepends=True)
    Path("some.csv").write_text("".join(lines[:4]))
    with Path("node.toml").open("a") as config:
        config.write('[data]\ntrain = "train.csv"\ntest = "some.csv"\n')
    text = Path("node.toml").read_text().replace('[data]\ntrain = "train.csv"\n', "", 1)
    Path("node.toml").write_text(text)
    status, found = doctor(capsys)
    assert (status, found["data"]["state"]) == (0, "warning")
    assert "data.test: 3 of its 3 records are in data.train too" in found["data"]["said"]
    Path("some.csv").write_text("".join(lines))
    status, found = doctor(capsys)
    assert (status, found["data"]["state"]) == (ExitCode.DATA, "failure")
    assert found["data"]["said"].startswith("data.test: ")


# -- during
def test_a_node_that_runs_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    said = Status(peer=OWN.peer_id, federation=MANIFEST.federation_id, phase="learning", connected=1)
    reached: dict[str, object] = {
        "peer": OTHER.peer_id,
        "observed": "127.0.0.1",
        "reached": [],
        "failed": {"/ip4/x": "refused"},
    }
    live = replace(said, reachability=reached, process={"loop_delay_worst_seconds": 3.0})

    async def status() -> Page:
        return Page(json.dumps(vars_of(live)).encode())

    async def examination() -> Page:
        return Page(json.dumps([Examined(OTHER.peer_id, "wrong", "masks do not cancel").as_dict()]).encode())

    with Store.open(STATE, OWN) as store:
        store.bind_manifest(canonical_bytes(MANIFEST))
    server = StatusServer({"/status": status, "/examination": examination}, None)
    with on_a_thread(server.run, Endpoint("127.0.0.1", 0)) as started, locked(STATE):
        where = started()
        replace(said, status_at=[where.host, where.port]).write(STATE)
        code, found = doctor(capsys, "--running")
    assert code == ExitCode.PROTOCOL
    assert found["port"]["said"].startswith("held by the running node")
    assert "3000 ms late" in found["node"]["said"]
    assert (found["members"]["state"], found["members"]["said"]) == ("ok", "1 here")
    assert (found["reachable"]["state"], found["secure sum"]["state"]) == ("warning", "failure")


def vars_of(status: Status) -> dict[str, object]:
    return {name: getattr(status, name) for name in Status.__dataclass_fields__}


def test_a_node_that_hangs_or_does_not_run(capsys: pytest.CaptureFixture[str]) -> None:
    status, found = doctor(capsys, "--running")
    assert (status, found["node"]["said"]) == (ExitCode.STORAGE, "does not run")
    assert not STATE.exists(), "nobody stands in for it"
    with Store.open(STATE, OWN) as store:
        store.bind_manifest(canonical_bytes(MANIFEST))
    Status(OWN.peer_id, MANIFEST.federation_id, status_at=["127.0.0.1", free_port()]).write(STATE)
    with locked(STATE):
        status, found = doctor(capsys)
    assert status == ExitCode.NETWORK
    assert "does not answer" in found["node"]["said"]


def test_lines_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--config", "node.toml", "--running"]) == ExitCode.STORAGE
    lines = capsys.readouterr().out.splitlines()
    assert "node: failure: does not run" in lines
    assert "    see its log, and `systemctl status`" in lines


# -- one by one
def known(**fields: Any) -> Known:
    return Known(load_config(Path("node.toml"), {}, {}), **fields)


def test_memory_is_reckoned_from_model_and_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "free_memory", lambda: machine.IDLE_BYTES + (1 << 16))
    assert machine.memory(known()).state == "ok"
    assert machine.memory(known(manifest=MANIFEST)).exit_code == ExitCode.CONFIG
    assert machine.memory(known(manifest=MANIFEST, running=True)).state == "ok"
    monkeypatch.setattr(machine, "free_memory", lambda: 1 << 40)
    assert machine.memory(known(manifest=MANIFEST)).state == "ok"


def test_free_memory_is_the_least_of_machine_and_container(tmp_path: Path) -> None:
    info = tmp_path / "meminfo"
    info.write_text("MemTotal: 9 kB\nMemAvailable:      2048 kB\n")
    assert machine.free_memory(info, tmp_path) == 2 << 20
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("100\n")
    assert machine.free_memory(info, tmp_path) == 2 << 20
    (tmp_path / "memory.max").write_text("1000\n")
    assert machine.free_memory(info, tmp_path) == 900


def test_a_clock_that_is_behind_what_was_written() -> None:
    STATE.mkdir()
    assert machine.clock(known(), machine.last_written(known()), members_agree=False).state == "skipped"
    (STATE / "status.json").touch()
    written = machine.last_written(known())
    assert machine.clock(known(), written, members_agree=False).state == "ok"
    behind = machine.clock(known(), written, members_agree=False, now=lambda: written - 227)
    assert (behind.state, behind.exit_code) == ("failure", ExitCode.CLOCK)
    assert machine.last_written(known(rounds=[Ended(1, int(written) + 99, "")])) == int(written) + 99


def test_files_from_when_the_clock_was_ahead_are_no_failure_if_members_agree(
    capsys: pytest.CaptureFixture[str],
) -> None:
    STATE.mkdir()
    (STATE / "status.json").touch()
    os.utime(STATE / "status.json", (time.time() + 227,) * 2)
    status, found = doctor(capsys)
    assert (status, found["clock"]["state"], found["clocks"]["state"]) == (
        ExitCode.CLOCK,
        "failure",
        "skipped",
    )
    with member() as address:
        write_config(f'bootstrap = ["{address}"]')
        status, found = doctor(capsys)
    assert (status, found["clock"]["state"], found["clocks"]["state"]) == (0, "warning", "ok")
    assert "from when it was ahead" in found["clock"]["said"]


def test_a_change_of_keys_that_was_not_finished_is_what_the_node_would_end_with(
    capsys: pytest.CaptureFixture[str],
) -> None:
    save_identity(next_key(Path("identity.key")), OTHER)
    write_config(f'bootstrap = ["/ip4/127.0.0.1/tcp/{free_port()}/p2p/{OTHER.peer_id}"]')
    config = load_config(Path("node.toml"), {}, {})
    with pytest.raises(IdentityError) as ends, prepared(config):
        pass
    status, found = doctor(capsys)
    one = found["identity"]
    assert (status, one["state"], one["hint"]) == (ends.value.exit_code, "failure", ends.value.hint)
    assert f"identity: {one['said']}" == ends.value.what
    assert found["members"]["state"] == "skipped", "nobody is shown the old key"
    assert cli.main(["node", "--check", "--config", "node.toml"]) == status
    assert f"identity: WRONG: {one['said']}\n    {one['hint']}\n" in capsys.readouterr().out


def test_rounds_that_skip_and_rounds_that_stop() -> None:
    def found(reasons: str, *, ago: float, running: bool = True) -> findings.Finding:
        ended = [
            Ended(number, 1000, "nobody came" if mark == "x" else "") for number, mark in enumerate(reasons)
        ]
        status = Status("", "", phase="learning")
        return rounds.lately(known(rounds=ended, running=running), status, lambda: 1000 + ago)

    assert found("", ago=0).state == "skipped"
    assert found("x..", ago=60).state == "ok"
    assert found("xx.", ago=60).said == "1 of the last 3 completed; the last was skipped because nobody came"
    assert found("...", ago=7200).state == "warning"
    assert found("...", ago=-227).said.endswith("the last 0 min ago")
    assert found("...", ago=7200, running=False).state == "ok"


def test_who_is_missing_is_named() -> None:
    shares = [Share(OTHER.peer_id, 3, 20, 30, 100), Share(ISSUER.peer_id, 20, 20, 100, 100)]
    found = rounds.participation(Status("", "", participation=[share.as_dict() for share in shares]))
    assert found.state == "warning"
    assert OTHER.peer_id in found.said
    assert ISSUER.peer_id not in found.said
    assert rounds.participation(None).state == "skipped"


def test_clocks_and_versions_of_members() -> None:
    def states(*examined: Examined) -> dict[str, tuple[str, int]]:
        return {one.name: (one.state, one.exit_code) for one in members.examined(examined)}

    agree = Examined(OTHER.peer_id, "agrees", clock=400, versions={"p2pfl": "9.9", "torch": "0"})
    assert states(agree)["clocks"] == ("failure", ExitCode.CLOCK)
    assert states(agree)["software"] == ("warning", 0)
    even = replace(agree, peer=ISSUER.peer_id, clock=0.0, versions={"torch": "0"})
    assert states(agree, even, replace(even, peer=OWN.peer_id))["clocks"] == ("warning", 0)
    assert not any("1 members" in one.said for one in members.examined([even]))
    assert states(even) == dict.fromkeys(("secure sum", "clocks", "software"), ("ok", 0))
    silent = Examined(OTHER.peer_id, "silent", "refused")
    assert states(silent)["secure sum"] == ("warning", 0)


def test_what_takes_too_long_is_left_and_errors_come_through() -> None:
    wait = threading.Event()

    def slow() -> Iterator[int]:
        yield 1
        wait.wait()

    found = findings.within(0.05, slow())
    assert next(found) == 1
    with pytest.raises(TimeoutError):
        next(found)
    wait.set()
    with pytest.raises(ZeroDivisionError):
        list(findings.within(5, (1 // each for each in (1, 0))))


def test_a_large_directory_is_left_to_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    forever = threading.Event()

    def large(_: NodeConfig) -> Iterator[Checked]:
        yield Checked("identity", "it is here")
        forever.wait()

    monkeypatch.setattr(directory_checks, "DIRECTORY_SECONDS", 0.05)
    monkeypatch.setattr(directory_checks, "check_directory", large)
    found = {one.name: one for one in examine_node(load_config(Path("node.toml"), {}, {}), must_run=True)}
    forever.set()
    assert found["directory"].state == "skipped"
    assert "node --check" in found["directory"].said
