"""`p2pfl demo` without a process or a pause: who is started again, what counts as finished, whose the
directory is.
"""

import argparse
import io
import json
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from p2pfl import demo, demo_report
from p2pfl.commands.demo import add_arguments
from p2pfl.crypto.identity import Identity
from p2pfl.demo import Hospital
from p2pfl.gossip.manifest import Manifest, PrivacySpec, from_toml
from p2pfl.heart_disease import FEDERATION_TOML
from p2pfl.node.errors import FederationError, StorageError

Step = Callable[[], object]


@dataclass
class FakeProcess:
    """Runs until something ends it, and then has ``status`` as its exit status."""

    status: int | None = None

    def poll(self) -> int | None:
        return self.status

    def send_signal(self, number: int) -> None:
        assert number == signal.SIGTERM
        if self.status is None:
            self.status = 0

    def wait(self, _timeout: float) -> int:
        assert self.status is not None, "it was not asked to stop"
        return self.status


@dataclass
class FakeHospital(Hospital):
    """``first`` is what its node does when it is started for the first time."""

    starts: int = 0
    first: Callable[["FakeHospital"], object] = field(default=lambda _: None)

    def start(self) -> None:
        self.starts += 1
        self.say("starting")
        self.process = FakeProcess()  # type: ignore[assignment]
        if self.starts == 1:
            self.first(self)

    def say(self, phase: str, **more: Any) -> None:
        if phase == "done":
            more = {"own_evaluation": {"accuracy": 0.8}, **more}
        state = self.directory / "state"
        state.mkdir(parents=True, exist_ok=True)
        (state / "status.json").write_text(json.dumps({"phase": phase, **more}))

    def end(self, status: int) -> None:
        self.process = FakeProcess(status)  # type: ignore[assignment]


@pytest.fixture
def two(tmp_path: Path) -> tuple[FakeHospital, FakeHospital]:
    hospitals = FakeHospital("bern", tmp_path / "bern"), FakeHospital("graz", tmp_path / "graz")
    for hospital in hospitals:
        hospital.start()
    return hospitals


def watch(hospitals: tuple[FakeHospital, ...], *steps: Step) -> None:
    """Watch them while ``steps`` happen, one in every pause; a pause too many fails the test."""
    script = iter(steps)
    demo._watch(hospitals, 8, clock=lambda: 0.0, pause=lambda _: next(script)())


def everybody(hospitals: tuple[FakeHospital, ...], phase: str) -> None:
    for hospital in hospitals:
        hospital.say(phase)


# -- who is started again
@pytest.mark.parametrize(
    ("status", "said"),
    [(-signal.SIGKILL, "killed (SIGKILL)"), (-signal.SIGTERM, "killed (SIGTERM)"), (0, "stopped")],
)
def test_a_node_that_somebody_ended_is_started_again(
    two: tuple[FakeHospital, FakeHospital], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bern, graz = two
    watch(two, lambda: graz.end(status), lambda: everybody(two, "done"))
    assert (bern.starts, graz.starts, graz.restarts) == (1, 2, 1)
    assert f"graz was {said}; starting it again from {graz.directory}" in capsys.readouterr().out


def test_one_killed_when_done_is_waited_for_again_while_others_are_not(
    two: tuple[FakeHospital, FakeHospital],
) -> None:
    bern, graz = two

    def graz_is_killed_after_it_was_done() -> None:
        graz.say("done")
        graz.end(-signal.SIGKILL)

    watch(two, graz_is_killed_after_it_was_done, lambda: bern.say("done"), lambda: graz.say("done"))
    assert graz.starts == 2
    assert graz.finished
    assert not graz.failure


def test_what_was_done_stays_done_if_its_node_is_killed_at_the_very_end(
    two: tuple[FakeHospital, FakeHospital],
) -> None:
    _, graz = two

    def all_done_and_one_killed() -> None:
        everybody(two, "done")
        graz.end(-signal.SIGKILL)

    watch(two, all_done_and_one_killed)
    with demo._stopped_at_the_end(two):
        pass
    assert graz.starts == 1
    demo._require_all_finished(two, Path("run"))


def test_a_node_that_gave_up_is_not_started_again_and_the_others_go_on(
    two: tuple[FakeHospital, FakeHospital],
) -> None:
    bern, graz = two
    watch(two, lambda: graz.end(7), lambda: bern.say("training"), lambda: bern.say("done"))
    assert (graz.starts, graz.failure) == (1, "exit status 7")
    with pytest.raises(FederationError, match=r"did not finish: graz \(exit status 7\)$") as caught:
        demo._require_all_finished(two, Path("run"))
    assert caught.value.hint == "see node.log in its directory under run"


def test_there_is_an_end_to_starting_again(two: tuple[FakeHospital, FakeHospital]) -> None:
    bern, graz = two
    bern.say("done")
    kills: list[Step] = [lambda: graz.end(-signal.SIGSEGV)] * (demo.MOST_RESTARTS + 1)
    watch(two, *kills, lambda: None)
    assert graz.restarts == demo.MOST_RESTARTS
    assert graz.failure == "killed (SIGSEGV)"


def test_a_federation_in_which_nothing_moves_is_given_up(two: tuple[FakeHospital, FakeHospital]) -> None:
    two[0].say("done")
    times: Iterator[float] = iter(range(0, 1000, 50))
    with pytest.raises(FederationError, match="no progress for 120 s; not finished: graz"):
        demo._watch(two, 8, clock=lambda: next(times), pause=lambda _: None)


def test_a_node_is_waited_for_until_it_has_measured_its_model(two: tuple[FakeHospital, FakeHospital]) -> None:
    bern, graz = two

    def over_but_not_measured() -> None:
        bern.say("done")
        graz.say("done", own_evaluation={})

    watch(two, over_but_not_measured, lambda: graz.say("done"))
    assert graz.status()["own_evaluation"]


# -- how it ends
def test_a_node_that_had_not_finished_when_it_was_stopped_has_failed(
    two: tuple[FakeHospital, FakeHospital],
) -> None:
    two[0].say("done")
    with demo._stopped_at_the_end(two):
        pass
    assert [hospital.failure for hospital in two] == ["", "stopped"]


def test_an_error_on_the_way_out_is_a_failure_too(two: tuple[FakeHospital, FakeHospital]) -> None:
    bern, graz = two
    everybody(two, "done")
    graz.end(1)
    with demo._stopped_at_the_end(two):
        pass
    assert (bern.failure, graz.failure) == ("", "exit status 1")


@pytest.fixture
def manifest() -> Manifest:
    organiser = Identity.from_seed(bytes(32)).peer_id
    draft = from_toml(FEDERATION_TOML.read_text().replace("ISSUER", organiser))
    return replace(draft, privacy=draft.privacy.with_mode("none"))


def run(monkeypatch: pytest.MonkeyPatch, manifest: Manifest, *hospitals: FakeHospital) -> int:
    """`run_demo` with ``hospitals`` in place of four real ones, and no report."""
    monkeypatch.setattr(demo, "_prepare", lambda *_: (manifest, list(hospitals)))
    monkeypatch.setattr(demo, "print_report", lambda *_: print("the report"))
    monkeypatch.setattr(demo, "POLL_SECONDS", 0.0)
    return demo.run_demo(hospitals[0].directory.parent / "run")


def test_the_demo_succeeds_if_every_node_finished(
    tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hospitals = [
        FakeHospital(name, tmp_path / name, first=lambda its: its.say("done")) for name in ("bern", "graz")
    ]
    assert run(monkeypatch, manifest, *hospitals) == 0
    assert "the report\nfinished in " in capsys.readouterr().out
    assert [hospital.process.poll() for hospital in hospitals if hospital.process] == [0, 0]


def test_the_demo_fails_if_one_node_did_not_finish_and_names_it(
    tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bern = FakeHospital("bern", tmp_path / "bern", first=lambda its: its.say("done"))
    graz = FakeHospital("graz", tmp_path / "graz", first=lambda its: its.end(3))
    with pytest.raises(FederationError, match=r"did not finish: graz \(exit status 3\)$"):
        run(monkeypatch, manifest, bern, graz)
    assert "the report" in capsys.readouterr().out


def test_there_is_no_report_if_no_node_finished(
    tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bern = FakeHospital("bern", tmp_path / "bern", first=lambda its: its.end(3))
    with pytest.raises(FederationError, match="bern"):
        run(monkeypatch, manifest, bern)
    assert "the report" not in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_the_nodes_and_says_so_in_the_exit_status(
    number: signal.Signals,
    tmp_path: Path,
    manifest: Manifest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bern = FakeHospital("bern", tmp_path / "bern", first=lambda _: signal.raise_signal(number))
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, manifest, bern)
    assert caught.value.code == 128 + number
    assert bern.process is not None
    assert bern.process.poll() == 0
    assert capsys.readouterr().err == f"p2pfl: {number.name}: stopping the nodes\n"
    assert signal.getsignal(number) == signal.SIG_DFL


def test_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with demo._unwinding_on_signals():
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


# -- whose the directory is
def test_two_demos_do_not_share_a_directory(tmp_path: Path) -> None:
    with demo._held(tmp_path / "run"):
        mine = tmp_path / "run" / "bern"
        mine.mkdir()
        with (
            pytest.raises(StorageError, match=r"another demo is running in .*run$"),
            demo._held(tmp_path / "run"),
        ):
            pytest.fail("both have it")
        assert mine.exists()
    with demo._held(tmp_path / "run"):
        assert not mine.exists()


def test_what_an_earlier_demo_left_is_removed_and_nothing_that_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "thesis.txt").touch()
    with demo._held(tmp_path / "run"):
        (tmp_path / "run" / "organiser.key").touch()
        (tmp_path / "run" / "link").symlink_to(tmp_path / "elsewhere")
    with demo._held(tmp_path / "run"):
        assert [path.name for path in (tmp_path / "run").iterdir()] == [demo.MARKER]
    assert (tmp_path / "elsewhere" / "thesis.txt").exists()


def test_somebody_elses_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(StorageError, match="is not empty and not an earlier demo's"), demo._held(tmp_path):
        pytest.fail("it took it")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(StorageError, match=r"cannot use .*run: "), demo._held(tmp_path / "run"):
        pytest.fail("it took it")


# -- what it says meanwhile
class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_elsewhere_than_on_a_terminal_phases_and_halves_are_lines(
    two: tuple[FakeHospital, FakeHospital], capsys: pytest.CaptureFixture[str]
) -> None:
    def train(completed: int) -> Step:
        def step() -> None:
            for hospital in two:
                hospital.say("learning", stage="training", training_completed=completed, skipped=1)

        return step

    watch(two, lambda: two[0].say("waiting"), *map(train, (0, 1, 3, 4, 5, 8)), lambda: everybody(two, "done"))
    assert capsys.readouterr().out.splitlines() == [
        "   0 s  starting: 0/8 training rounds, 0 skipped",
        "   0 s  starting/waiting: 0/8 training rounds, 0 skipped",
        "   0 s  training: 0/8 training rounds, 1 skipped",
        "   0 s  training: 4/8 training rounds, 1 skipped",
        "   0 s  training: 8/8 training rounds, 1 skipped",
        "   0 s  done: 0/8 training rounds, 0 skipped",
    ]


def test_on_a_terminal_one_line_is_redrawn(
    two: tuple[FakeHospital, FakeHospital], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    progress = demo._Progress(8, iter((0.0, 1.0, 2.0, 3.0)).__next__)
    assert progress.show(two)
    assert not progress.show(two), "nothing moved"
    two[0].say("done", training_completed=4)
    assert progress.show(two)
    progress.end()
    assert terminal.getvalue().count("\n") == 1
    assert terminal.getvalue().endswith(
        f"\r\x1b[K{'█' * 15}{'·' * 15}   3 s  starting/done: 4/8 training rounds, 0 skipped\n"
    )


def test_every_mode_that_the_option_offers_can_be_made_and_reported() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    modes = get_args(get_type_hints(PrivacySpec)["mode"])
    for mode in modes:
        assert parser.parse_args(["--mode", mode]).mode == mode
    assert {*demo_report._LADDER_NOTES, "none"} == {*modes}
    manifest = demo._manifest(Identity.from_seed(bytes(32)), 3, "organisation")
    assert (manifest.privacy.mode, manifest.training.rounds) == ("organisation", 3)
    assert manifest.calibrated
