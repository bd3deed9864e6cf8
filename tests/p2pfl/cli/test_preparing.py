"""Before a node runs: `p2pfl init`, `federation` and `privacy`, what they print and what is left on disk."""

import json
import os
import re
import stat
from pathlib import Path

import pytest
from command_line import GUEST, MEMBER, TOML, Run, invite, refused

from p2pfl.gossip.manifest import decode_manifest_untrusted
from p2pfl.gossip.tickets import check, parse_ticket_untrusted
from p2pfl.node.errors import ExitCode, StorageError
from p2pfl.node.storage.identity_file import load_identity, save_identity


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
