"""`p2pfl status` on a node's directory, running and not."""

import json
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from p2pfl import cli
from p2pfl.crypto.identity import Identity
from p2pfl.gossip.events import Course
from p2pfl.gossip.evidence import Accusation, contradiction
from p2pfl.gossip.manifest import canonical_bytes, from_toml
from p2pfl.gossip.messages import Result
from p2pfl.gossip.wire import signed
from p2pfl.heart_disease import FEDERATION_TOML
from p2pfl.node.errors import ExitCode
from p2pfl.node.monitoring.status import FILE, Status, read_status
from p2pfl.node.released import Released
from p2pfl.node.storage.identity_file import save_identity
from p2pfl.node.storage.lock import locked
from p2pfl.node.storage.receipts import RoundOutcome
from p2pfl.node.storage.store import Exclusion, Store

IDENTITY, OTHER = (Identity.from_seed(bytes([number]) * 32) for number in (1, 2))
STATE = Path("state")


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node's directory that has joined; the current one."""
    monkeypatch.chdir(tmp_path)
    save_identity(Path("identity.key"), IDENTITY)
    Path("node.toml").write_text('[data]\ntrain = "train.csv"\n')
    text = FEDERATION_TOML.read_text(encoding="utf-8").replace("ISSUER", IDENTITY.peer_id)
    draft = from_toml(text)
    agreed = replace(draft, privacy=draft.privacy.with_mode("none"))
    with Store.open(STATE, IDENTITY) as store:
        store.bind_manifest(canonical_bytes(agreed))


def learning() -> Status:
    return Status(
        peer=IDENTITY.peer_id,
        federation="f",
        phase="learning",
        round=17,
        stage="training",
        rounds_total=40,
        training_completed=15,
        completed=16,
        skipped=1,
        last_skip="too few survivors",
        connected=3,
        privacy_mode="distributed",
        epsilon=0.4567,
        epsilon_budget=1.0,
        delta=1e-4,
    )


def status(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert cli.main(["status", "--config", "node.toml", *options]) == 0
    return capsys.readouterr().out


def test_a_running_node(capsys: pytest.CaptureFixture[str]) -> None:
    learning().write(STATE)
    with locked(STATE):
        lines = status(capsys).splitlines()
    assert lines[0] == f"node: {IDENTITY.peer_id}, running"
    assert lines[2:] == [
        "phase: learning, round 17 (training), 3 members connected",
        "rounds: 15 of 40 in training, 16 completed in all, 1 skipped; the last because too few survivors",
        "epsilon: 0.457 of 1 at delta 0.0001",
        "model: none yet",
        "evidence: none",
    ]


def test_a_node_that_does_not_answer_is_said_not_to(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = list(gone.getsockname())
    replace(learning(), status_at=address).write(STATE)
    assert "no answer" not in status(capsys)
    with locked(STATE):
        text = status(capsys)
    assert f"no answer from 127.0.0.1:{address[1]}: the node is starting, or busy, or hangs" in text
    assert "phase: learning, round 17 (training)" in text


@pytest.mark.parametrize(
    ("reached", "failed", "said"),
    [
        (["/ip4/192.0.2.1/tcp/4001"], {}, "yes, by 12D3 at /ip4/192.0.2.1/tcp/4001"),
        ([], {"/ip4/192.0.2.1/tcp/4001": "refused"}, "no, 12D3 tried (/ip4/192.0.2.1/tcp/4001: refused)"),
        ([], {}, "not known; 12D3 sees this node at 192.0.2.1"),
    ],
)
def test_whether_others_reach_it(
    reached: list[str], failed: dict[str, str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found: dict[str, object] = {"peer": "12D3", "observed": "192.0.2.1", "reached": reached, "failed": failed}
    replace(learning(), reachability=found).write(STATE)
    assert f"reachable from outside: {said}" in status(capsys)


def test_a_model_is_named_whatever_was_last_written(capsys: pytest.CaptureFixture[str]) -> None:
    learning().write(STATE)
    with Store.open(STATE, IDENTITY) as store:
        store.save_released(Released(4, 1, np.array([1.0]), np.array([0.5])))
    path = STATE / "model-00000004.safetensors"
    assert f"model: {path}\n" in status(capsys)
    assert json.loads(status(capsys, "--json"))["model"] == str(path)


def test_a_stopped_node_and_what_was_done_to_it(capsys: pytest.CaptureFixture[str]) -> None:
    learning().write(STATE)
    with Store.open(STATE, IDENTITY) as store:
        store.keep_evidence(OTHER.peer_id, "two masked vectors", [b"one", b"two"])
    text = status(capsys)
    assert "not running" in text
    assert "phase: learning, when it last ran" in text
    assert f"evidence: {OTHER.peer_id}: two masked vectors (2 signed messages kept)" in text
    found = json.loads(status(capsys, "--json"))
    assert found["running"] is False
    assert found["round"] == 17
    assert found["evidence"] == [{"peer": OTHER.peer_id, "kind": "two masked vectors", "messages": 2}]


@pytest.mark.parametrize("accused", [OTHER, IDENTITY], ids=["a peer", "this node"])
def test_who_is_excluded_is_named_with_what_it_did_and_since_when(
    capsys: pytest.CaptureFixture[str], accused: Identity
) -> None:
    learning().write(STATE)
    place = (3, 0, bytes(32), bytes(32))
    results = [signed(accused, Result(accused.peer_id, *place, bytes([n]) * 32)) for n in (1, 2)]
    proof = contradiction(results)
    assert proof is not None
    with Store.open(STATE, IDENTITY) as store:
        store.exclude(Exclusion(1_800_000_000, Accusation(IDENTITY.peer_id, "", proof)))
    who = OTHER.peer_id if accused is OTHER else f"{IDENTITY.peer_id} (this node)"
    what, since = "it signed two contradicting result messages", "2027-01-15T08:00:00Z"
    assert f"excluded: {who}: {what}, known since {since}" in status(capsys)
    found = json.loads(status(capsys, "--json"))
    assert found["excluded"] == [{"peer": accused.peer_id, "kind": what, "since": since}]
    assert found["evidence"] == []


def test_saturation_is_summed_over_the_rounds(capsys: pytest.CaptureFixture[str]) -> None:
    learning().write(STATE)
    assert "saturated" not in status(capsys)
    with Store.open(STATE, IDENTITY) as store:
        for round, (reason, saturated) in enumerate([("", 0), ("", 3), ("too few survivors", 4), ("", 0)]):
            store.record_round(RoundOutcome(round, "training", (), (), reason, True, saturated))
            store.record_round(RoundOutcome(round + 4, "training", (), (), "", True, 0, left_out=saturated))
    assert "left out: 7 gradients of this node's records in 2 rounds were not finite" in status(capsys)
    line = "saturated: 7 values of this node in 2 rounds were beyond training.parameter_limit and were cut"
    assert line in status(capsys)
    found = json.loads(status(capsys, "--json"))
    assert (found["saturated_values"], found["saturated_rounds"]) == (7, 2)
    assert (found["left_out_gradients"], found["left_out_rounds"]) == (7, 2)


def test_epsilon_at_the_planned_end_is_what_the_privacy_command_says(
    capsys: pytest.CaptureFixture[str],
) -> None:
    draft = from_toml(FEDERATION_TOML.read_text(encoding="utf-8").replace("ISSUER", IDENTITY.peer_id))
    privacy = replace(
        draft.privacy,
        noise_multiplier=9.0,
        statistics_noise_multiplier=20.0,
        evaluation_noise_multiplier=20.0,
    )
    with Store.open(Path("private"), IDENTITY) as store:
        store.bind_manifest(canonical_bytes(replace(draft, privacy=privacy)))
    Path("node.toml").write_text('state = "private"\n[data]\ntrain = "train.csv"\n')
    learning().write(Path("private"))
    assert cli.main(["privacy", "--config", "node.toml", "--json"]) == 0
    end = json.loads(capsys.readouterr().out)["epsilon_at_the_end"]
    assert end > 0
    assert f"epsilon: 0.457 of 1 at delta 0.0001; {end:.3f} at the planned end" in status(capsys)
    assert json.loads(status(capsys, "--json"))["epsilon_at_the_end"] == end


def test_evaluations_are_listed_with_why_it_ended(capsys: pytest.CaptureFixture[str]) -> None:
    said = learning()
    good = {"total": 80.4, "accuracy": 0.75, "auc": 0.8123, "mean_loss": 0.5}
    said.evaluations = [{"round": 3 + n, "members": 4} for n in range(8)]
    said.evaluations.append({"round": 12, "members": 3, **good})
    said.ended = "75% of the members voted to end after 8 training rounds"
    said.write(STATE)
    out = status(capsys)
    assert "evaluations: 9, of which the last 8:" in out
    assert "evaluation in round 10: does not count, too few records are in it (4 members)" in out
    line = (
        "evaluation in round 12: accuracy: 0.7500, AUC: 0.8123, mean loss: 0.5000 (80 records of 3 members)"
    )
    assert line in out
    assert f"ended: {said.ended}" in out
    assert json.loads(status(capsys, "--json"))["evaluations"][-1]["auc"] == 0.8123


def test_an_evaluation_of_means_counts_members_and_one_lost_in_noise_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = learning()
    said.privacy_mode = "organisation"
    said.evaluations = [{"round": 3, "members": 4, "accuracy": 0.75}, {"round": 6, "members": 4}]
    said.write(STATE)
    out = status(capsys)
    assert "evaluation in round 3: accuracy: 0.7500 (4 members)\n" in out
    assert "evaluation in round 6: lost in noise (4 members)\n" in out
    said.privacy_mode = "distributed"
    said.evaluations = [{"round": 3, "members": 4, "total": 80.0}]
    said.write(STATE)
    assert "evaluation in round 3: lost in noise (80 records of 4 members)\n" in status(capsys)


def test_mode_none_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    said = learning()
    said.privacy_mode, said.epsilon = "none", None
    said.write(STATE)
    assert "epsilon: NONE" in status(capsys)
    said.privacy_mode = Status(peer="", federation="").privacy_mode  # still starting
    said.write(STATE)
    assert "epsilon: NONE" in status(capsys)


@pytest.mark.parametrize(
    "content", [None, b"", b"[]", b'{"peer": 1}', b'{"peer": "a", "colour": 1}', b"\xff"]
)
def test_what_is_not_a_status_is_said(capsys: pytest.CaptureFixture[str], content: bytes | None) -> None:
    if content is not None:
        (STATE / FILE).write_bytes(content)
    assert cli.main(["status", "--config", "node.toml"]) == ExitCode.STORAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert FILE in err
    assert "start the node" in err


def test_it_reads_what_was_written() -> None:
    learning().write(STATE)
    assert read_status(STATE) == learning()


# -- receipts
def test_rounds_are_shown_with_who_was_missing(capsys: pytest.CaptureFixture[str]) -> None:
    group = (IDENTITY.peer_id, OTHER.peer_id)
    with Store.open(STATE, IDENTITY) as store:
        for round in range(12):
            outcome = RoundOutcome(round, "training", group, group[:1], "", True, 0)
            store.record_round(outcome, Course(group, 0, group, dropped=((OTHER.peer_id, "masked"),)))
        store.record_round(RoundOutcome(12, "training", (), (), "too few", True, 0), Course(group))
    shown = status(capsys, "--rounds")
    assert shown.count("round ") == 10
    assert f"missing: {OTHER.peer_id} (masked)" in shown
    assert "round 12 (training), " in shown
    assert "skipped after masked data had left: too few" in shown
    found = json.loads(status(capsys, "--rounds", "3-4", "--json"))
    assert [one["round"] for one in found] == [3, 4]
    assert found[0]["dropped"] == [{"peer": OTHER.peer_id, "phase": "masked"}]
    assert "every signature of these 13 receipts is true" in status(capsys, "--rounds", "99", "--verify")


@pytest.mark.parametrize("options", [("--rounds", "last"), ("--verify",)])
def test_what_is_no_range_is_refused(options: tuple[str, ...]) -> None:
    assert cli.main(["status", "--config", "node.toml", *options]) == ExitCode.USAGE


def test_a_false_receipt_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    impostor = Identity.from_seed(bytes([9]) * 32)
    with Store.open(STATE, IDENTITY) as store:
        store._identity = impostor
        store._identity.peer_id = IDENTITY.peer_id
        store.record_round(RoundOutcome(0, "training", (), (), "too few", True, 0))
    assert cli.main(["status", "--config", "node.toml", "--rounds", "--verify"]) == ExitCode.STORAGE
    assert "receipt of round 0 is not signed by" in capsys.readouterr().err


def test_who_is_missed_is_named_while_it_runs_and_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    share = {"peer": OTHER.peer_id, "recent": 3, "recent_of": 20, "took": 13, "of": 40}
    fine = {"peer": "12D3KooWfine", "recent": 20, "recent_of": 20, "took": 40, "of": 40}
    replace(learning(), participation=[share, fine]).write(STATE)
    shown = status(capsys)
    assert f"missed: {OTHER.peer_id} in 3 of the last 20 rounds, 13 of 40 in all" in shown
    assert "took part: 12D3KooWfine in 20 of the last 20 rounds, 40 of 40 in all" in shown
    assert "ended without" not in shown
    replace(learning(), participation=[share, fine], ended="all 40 training rounds are over").write(STATE)
    told = "1 member took part in less than half of the rounds"
    assert f"ended without some of its members: {told}: {OTHER.peer_id} in 13 of 40" in status(capsys)
