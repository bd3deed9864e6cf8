"""`p2pfl resume` and `p2pfl federation create --after`: what was paid is not forgotten, nor counted twice."""

import json
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from p2pfl import cli
from p2pfl.crypto.identity import Identity
from p2pfl.gossip.manifest import Manifest, canonical_bytes, from_toml
from p2pfl.node.accountant import epsilon
from p2pfl.node.config import load_config
from p2pfl.node.errors import ConfigError, ExitCode, StorageError
from p2pfl.node.outlook import planned_mechanisms
from p2pfl.node.privacy import Budget, dimension, stage_plan
from p2pfl.node.released import Released
from p2pfl.node.start import prepared, require_same_share
from p2pfl.node.storage.carried import Carried, summed
from p2pfl.node.storage.identity_file import load_identity, save_identity
from p2pfl.node.storage.lock import locked
from p2pfl.node.storage.manifest_file import read_manifest
from p2pfl.node.storage.receipts import RoundOutcome
from p2pfl.node.storage.store import Store

IDENTITY = Identity.from_seed(bytes(range(32)))
PEERS = tuple(Identity.from_seed(bytes([number]) * 32).peer_id for number in (1, 2, 3, 4))
NOISED = "noise_multiplier = 2.0\nstatistics_noise_multiplier = 4.0\nevaluation_noise_multiplier = 4.0"
ROWS = "x,y\n" + "".join(f"{number},{number % 2}\n" for number in range(20))

Run = Callable[..., tuple[int, str, str]]


def text(name: str, mode: str = "distributed", limit: float = 5, noise: str = NOISED) -> str:
    promise = "" if mode == "none" else f"epsilon = {limit}\ndelta = 1e-4\n{noise}"
    return f"""
        name = "{name}"
        issuers = ["{IDENTITY.peer_id}"]
        members = ["{IDENTITY.peer_id}"]
        [task]
        label = "y"
        positive = ["1"]
        columns = [{{ name = "x", kind = "numeric", low = 0, high = 20 }}]
        [model]
        kind = "logistic"
        [training]
        rounds = 3
        learning_rate = 0.5
        sampling_rate = 0.5
        expected_batch = 10
        [privacy]
        mode = "{mode}"
        {promise}
        """


OLD = from_toml(text("old"))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        status = cli.main(arguments)
        out, err = capsys.readouterr()
        return status, out, err

    return call


def lived(directory: str = "old", manifest: Manifest = OLD, rounds: int = 5) -> None:
    """A node that has been through so many ``rounds`` of ``manifest``; 5 are the whole of it."""
    Path(directory).mkdir()
    save_identity(Path(directory) / "identity.key", IDENTITY)
    Path(directory, "train.csv").write_text(ROWS)
    listen = '[network]\nlisten = ["/ip4/127.0.0.1/tcp/4007"]'
    Path(directory, "node.toml").write_text(
        f'{listen}\n[data]\ntrain = "train.csv"\n[status]\nlisten = "off"\n[limits]\nmemory = "9 GB"\n'
    )
    with Store.open(Path(directory, "state"), IDENTITY) as store:
        store.bind_manifest(canonical_bytes(manifest))
        go_through(store, manifest, rounds)


def go_through(store: Store, manifest: Manifest, rounds: int = 5) -> None:
    group = manifest.groups.thresholds
    for round, stage in enumerate(["statistics", *["training"] * 3, "evaluation"][:rounds]):
        plan = stage_plan(manifest, stage, dimension(manifest, stage))
        store.charge(round, plan.mechanism(group) if plan.charged else None, PEERS)
        store.record_round(RoundOutcome(round, stage, PEERS, PEERS, "", True, 0))
    store.save_released(Released(min(3, rounds - 1), 1, np.array([10.0, 1.0, -2.0]), np.array([0.7, -0.2])))


def agreed(name: str, **terms: object) -> str:
    """Another federation's manifest file."""
    path = Path(f"{name}.manifest")
    path.write_bytes(canonical_bytes(from_toml(text(name, **terms))))  # type: ignore[arg-type]
    return str(path)


def resume(run: Run, old: str, new: str, federation: str, *more: str) -> tuple[int, str, str]:
    return run("resume", "--from", old, "--directory", new, "--federation", federation, *more)


def spent(run: Run, directory: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("privacy", "--config", f"{directory}/node.toml", "--json")[1])
    return found


def test_epsilon_goes_on_counting_and_says_what_was_before(run: Run) -> None:
    lived()
    before = spent(run, "old")
    status, out, err = resume(run, "old", "new", agreed("new"))
    assert (status, out) == (0, "new/node.toml\n"), err
    after = spent(run, "new")
    assert before["epsilon"] == after["epsilon"] != 0
    [carried] = after["carried"]
    assert carried["federation"] == OLD.federation_id
    assert carried["epsilon"] == before["epsilon"]
    releases = [(one["stage"], one["count"], one["round"]) for one in after["releases"]]
    assert releases == [("statistics", 1, None), ("training", 3, None), ("evaluation", 1, None)]
    assert f"{carried['epsilon']:.3f} carried over" in err
    told = run("privacy", "--config", "new/node.toml", "--ledger")[1]
    assert f"carried over from {OLD.federation_id[:12]}…:" in told
    assert " before    2.0000     0.5      3  training: " in told
    new = read_manifest(Path("new.manifest"))
    with Store.open(Path("new/state"), IDENTITY) as store:
        assert not Budget(replace(new.privacy, epsilon=before["epsilon"]), store.mechanisms()).allows(
            stage_plan(new, "training", dimension(new, "training"))
        )
        assert store.last_contribution() == -1
        go_through(store, new)
        total = epsilon([*planned_mechanisms(OLD)[:2], *planned_mechanisms(new)[:2]], 1e-4).pld
        assert epsilon(store.mechanisms(), 1e-4).pld == pytest.approx(total)
    # And once more, from there: nothing of the three is forgotten.
    assert resume(run, "new", "third", agreed("third"))[0] == 0
    with Store.open(Path("third/state"), IDENTITY) as store:
        assert [one.name for one in store.carried()] == ["old", "new"]
        assert epsilon(store.mechanisms(), 1e-4).pld == pytest.approx(total)


def test_the_new_directory_is_a_node_of_the_same_identity_and_the_old_one_runs_no_more(run: Run) -> None:
    lived()
    assert resume(run, "old", "new", agreed("new"))[0] == 0
    config = load_config(Path("new/node.toml"), {}, {})
    assert load_identity(config.identity).peer_id == IDENTITY.peer_id
    assert Path("new/identity.key").stat().st_mode & 0o777 == 0o600
    assert config.data_train == Path("old/train.csv").absolute()
    assert (config.status_listen, config.memory) == (None, 9 * 10**9)
    assert config.listen == ("/ip4/127.0.0.1/tcp/4007",)
    with prepared(config) as ready:
        assert ready.manifest == read_manifest(Path("new.manifest"))
    old = load_config(Path("old/node.toml"), {}, {})
    with pytest.raises(StorageError, match="goes on in federation") as refused, prepared(old):
        pass
    assert str(Path("new").absolute()) in refused.value.hint
    assert run("privacy", "--config", "old/node.toml")[0] == 0


def test_a_crash_before_the_new_directory_has_its_name_can_be_repeated(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    lived()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Store, "continue_in", killed)
        assert resume(run, "old", "new", agreed("new"))[0] == ExitCode.INTERRUPTED
    assert sorted(path.name for path in Path().iterdir()) == ["new.manifest", "old"]
    with monkeypatch.context() as patched:
        patched.setattr("os.rename", killed)
        assert resume(run, "old", "new", "new.manifest")[0] == ExitCode.INTERRUPTED
    [made] = Path().glob(".new.*")
    inode = Path(made, "state/p2pfl.sqlite").stat().st_ino
    elsewhere = resume(run, "old", "twin", "new.manifest")
    assert (elsewhere[0], "resume from there" in elsewhere[2]) == (ExitCode.STORAGE, True)
    status, out, err = resume(run, "old", "new", "new.manifest")
    assert (status, out) == (0, "new/node.toml\n"), err
    assert (made.exists(), Path("new/state/p2pfl.sqlite").stat().st_ino) == (False, inode)
    again = resume(run, "old", "other", agreed("other"))
    assert (again[0], "resume from there" in again[2]) == (ExitCode.STORAGE, True)


def test_a_ledger_that_was_moved_away_is_not_begun_again(run: Run) -> None:
    lived()
    assert resume(run, "old", "new", agreed("new"))[0] == 0
    Path("new").rename("elsewhere")
    status, out, err = resume(run, "old", "new", "new.manifest")
    assert (status, out, "or where that was moved" in err) == (ExitCode.STORAGE, "", True)
    assert not Path("new").exists()
    with prepared(load_config(Path("elsewhere/node.toml"), {}, {})) as ready:
        assert ready.store.mechanisms()


def test_an_empty_federation_between_does_not_hide_what_nothing_was_promised_of(run: Run) -> None:
    lived("bare", from_toml(text("bare", "none")))
    assert resume(run, "bare", "between", agreed("between", mode="none"))[0] == 0
    status, _, err = resume(run, "between", "new", agreed("new"))
    assert (status, "bare promised nothing" in err) == (ExitCode.PRIVACY, True)
    assert resume(run, "between", "more", agreed("more", mode="none"))[0] == 0
    with Store.open(Path("more/state"), IDENTITY) as store:
        assert [(one.name, one.mode, one.mechanisms) for one in store.carried()] == [("bare", "none", ())]


def test_of_a_federation_that_has_not_ended_its_planned_end_is_carried(run: Run) -> None:
    lived(rounds=2)
    assert resume(run, "old", "new", agreed("new"))[0] == 0
    with Store.open(Path("new/state"), IDENTITY) as store:
        [carried] = store.carried()
    counts = {one.stage: one.count for one in carried.mechanisms}
    assert counts == {one.stage: one.count for one in planned_mechanisms(OLD) if one.count}
    assert spent(run, "new")["epsilon"] == spent(run, "old")["epsilon_at_the_end"]


def test_what_one_epsilon_cannot_count_is_refused_and_nothing_is_made(run: Run) -> None:
    lived()
    lived("bare", from_toml(text("bare", "none")))
    for old, federation, status, words in (
        ("old", agreed("all", mode="organisation"), ExitCode.PRIVACY, "does not hide the same"),
        ("bare", agreed("more"), ExitCode.PRIVACY, "bare promised nothing"),
        ("old", "old.manifest", ExitCode.FEDERATION, "in this very federation"),
    ):
        Path("old.manifest").write_bytes(canonical_bytes(OLD))
        found, out, err = resume(run, old, "new", federation)
        assert (found, out) == (status, ""), err
        assert words in err
    with locked(Path("old/state")):
        assert resume(run, "old", "new", "more.manifest")[0] == ExitCode.STORAGE
    assert not Path("new").exists()
    with Store.open(Path("old/state"), IDENTITY) as store:
        assert store.successor() is None
    assert resume(run, "bare", "new", agreed("open", mode="none"))[0] == 0
    assert resume(run, "old", "new", "more.manifest")[0] == ExitCode.STORAGE


def test_where_nothing_is_promised_any_more_what_was_paid_is_still_named(run: Run) -> None:
    lived()
    assert resume(run, "old", "new", agreed("new", mode="none"))[0] == 0
    found = spent(run, "new")
    assert (found["mode"], found["epsilon"]) == ("none", None)
    assert found["carried"] == [{"federation": OLD.federation_id, "name": "old"}]
    assert [one["stage"] for one in found["releases"]] == ["statistics", "training", "evaluation"]
    status, out, _ = run("privacy", "--config", "new/node.toml", "--ledger")
    assert status == 0
    assert "none: there is no epsilon" in out
    assert f"records were used before, in old ({OLD.federation_id[:12]}…), mode distributed;" in out
    assert "clipped gradients of sampled training records" in out


def test_a_federation_without_a_promise_may_follow_one_with(run: Run) -> None:
    Path("open.toml").write_text(text("open", mode="none"))
    status, out, err = run("federation", "create", "open.toml", "--after", agreed("old"))
    assert (status, len(out.strip())) == (0, 64), err


def test_an_exported_model_is_where_the_next_federation_begins(run: Run) -> None:
    lived()
    status, digest, err = run("export", "--config", "old/node.toml", "--out", "old.safetensors")
    assert status == 0, err
    Path("next.toml").write_text(text("next", limit=9, noise=""))
    Path("old.manifest").write_bytes(canonical_bytes(OLD))
    create = ("federation", "create", "next.toml", "--initial", "old.safetensors", "--after", "old.manifest")
    status, _, err = run(*create)
    assert status == 0, err
    manifest = read_manifest(Path("next.manifest"))
    assert manifest.model.initial == digest.strip()
    planned = [*planned_mechanisms(OLD), *planned_mechanisms(manifest)]
    assert 0.99 * 9 < epsilon(planned, 1e-4).pld <= 9
    status, _, err = resume(run, "old", "new", "next.manifest")
    assert (status, "SHA-256" in err) == (ExitCode.CONFIG, True)
    status, _, err = resume(run, "old", "new", "next.manifest", "--initial", "old.safetensors")
    assert status == 0, err
    assert "budget will end first" not in err
    with prepared(load_config(Path("new/node.toml"), {}, {})) as ready:
        assert ready.records is not None
        assert ready.records.initial is not None
        assert ready.records.initial["0.weight"] == pytest.approx(np.array([[0.7]]))
    Path("new/initial.safetensors").write_bytes(b"another")
    status, _, err = run("node", "--config", "new/node.toml")
    assert (status, err.count("\n")) == (ExitCode.DATA, 2)
    assert "model.initial: " in err


def test_the_frozen_layers_of_the_new_federation_are_named_like_those_of_a_node(run: Run) -> None:
    lived()
    save_file({"0.weight": np.ones((2, 1), "f4"), "0.bias": np.ones(2, "f4")}, "layers.safetensors")
    digest = sha256(Path("layers.safetensors").read_bytes()).hexdigest()
    frozen = f'kind = "mlp"\nhidden = [2]\ntrain = "head"\nbackbone = "{digest}"'
    manifest = from_toml(text("new").replace('kind = "logistic"', frozen))
    Path("new.manifest").write_bytes(canonical_bytes(manifest))
    status, _, err = resume(run, "old", "new", "new.manifest")
    assert (status, "--backbone" in err) == (ExitCode.CONFIG, True)
    status, _, err = resume(run, "old", "new", "new.manifest", "--backbone", "layers.safetensors")
    assert status == 0, err
    with prepared(load_config(Path("new/node.toml"), {}, {})) as ready:
        assert ready.records is not None
        assert ready.records.backbone is not None


def test_an_epsilon_that_is_spent_already_is_refused(run: Run) -> None:
    Path("old.manifest").write_bytes(canonical_bytes(OLD))
    already = epsilon(planned_mechanisms(OLD), 1e-4).pld
    Path("next.toml").write_text(text("next", limit=round(already, 3), noise=""))
    status, _, err = run("federation", "create", "next.toml", "--after", "old.manifest")
    assert status == ExitCode.PRIVACY
    assert "is spent before it begins" in err


def hold_out(directory: str, share: str) -> None:
    path = Path(directory, "node.toml")
    path.write_text(path.read_text().replace("[data]", f"[data]\nheld_out = {share}"))


def test_records_stay_held_out_in_the_next_federation(run: Run) -> None:
    lived()
    hold_out("old", "0.25")
    status, _, err = resume(run, "old", "new", agreed("new"))
    assert status == 0, err
    config = load_config(Path("new/node.toml"), {}, {})
    assert config.data_held_out == 0.25
    with Store.open(Path("new/state"), IDENTITY) as store:
        require_same_share(config, store)
        with pytest.raises(ConfigError, match=r"data.held_out: 0.5, but .* 0.25"):
            require_same_share(replace(config, data_held_out=0.5), store)


def test_records_that_would_change_sides_are_refused(run: Run) -> None:
    lived()
    hold_out("old", "0.25")
    path = Path("other.manifest")
    path.write_bytes(canonical_bytes(from_toml(text("other").replace("high = 20", "high = 30"))))
    status, _, err = resume(run, "old", "new", str(path))
    assert status == ExitCode.CONFIG
    assert "data.held_out" in err
    assert not Path("new").exists()


def test_what_is_carried_is_one_row_of_what_was_charged(tmp_path: Path) -> None:
    [statistics, training, _] = planned_mechanisms(OLD)
    once = replace(training, count=1)
    assert summed([once, statistics, once, once]) == (training, statistics)
    with Store.open(tmp_path, IDENTITY) as store:
        before = [Carried.of(OLD, (training,)), Carried(b"\1" * 32, "new", "none", ())]
        store.carry_over([*before, Carried.of(OLD, (statistics,))])
        assert store.carried()[:2] == before
        assert store.mechanisms() == [training, statistics]
        assert store.charges() == []
