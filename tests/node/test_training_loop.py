"""A training loop of the organisation's own, and the node that waits for it no longer than agreed."""

import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from p2pfl.crypto.identity import Identity
from p2pfl.crypto.randomness import seeded_random
from p2pfl.gossip.manifest import Manifest, PrivacySpec, from_toml
from p2pfl.node.errors import ManifestProblem
from p2pfl.node.monitoring.status import Status
from p2pfl.node.training.handover import SOCKET, address_in, read_frame, send_frame
from p2pfl.node.training.outside import OutsideTrainer
from p2pfl.node.training.table import Table
from p2pfl.training_loop import Federation, Model

EXAMPLES = Path(__file__).parents[2] / "examples"
ISSUER = Identity.from_seed(bytes(32)).peer_id
LONG = 3600.0
SHORT = 0.04
NOTHING = np.zeros(1)
Vector = NDArray[np.float64]

TOML = f"""
name = "t"
issuers = ["{ISSUER}"]
[task]
kind = "outside"
arguments = {{ steps = 2, rate = 0.5, name = "x" }}
[model]
kind = "outside"
tensors = [
    {{ name = "layer.w", shape = [2, 3] }}, {{ name = "layer.b", shape = [2] }},
    {{ name = "scale", shape = [], start = "ones" }}, {{ name = "zero", shape = [1, 2], start = "zeros" }},
]
[training]
rounds = 3
[privacy]
mode = "none"
"""


def agreed(mode: str = "none", seconds: float = LONG) -> Manifest:
    manifest = from_toml(TOML)
    terms = (1.0, 1e-4, 0.5, 1.0, 0.0, 1.0) if mode != "none" else ()
    privacy = PrivacySpec(mode, *terms)  # type: ignore[arg-type]  # one of two
    timing = replace(manifest.timing, ready_seconds=seconds, round_seconds=2 * LONG)
    return replace(manifest, privacy=privacy, timing=timing)


Make = Callable[..., OutsideTrainer]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Make]:
    made: list[OutsideTrainer] = []

    def making(mode: str = "none", seconds: float = LONG, manifest: Manifest | None = None) -> OutsideTrainer:
        directory = tmp_path / (
            f"a directory whose name is longer than a socket's may be {'x' * 60}{len(made)}"
        )
        directory.mkdir()
        made.append(OutsideTrainer(manifest or agreed(mode, seconds), directory, seeded_random(b"")))
        return made[-1]

    yield making
    for trainer in made:
        trainer.close()


def directory_of(trainer: OutsideTrainer) -> Path:
    return trainer._loop._path.parent


@contextmanager
def loop(
    trainer: OutsideTrainer, work: Callable[[Federation], object], evaluate: Any = None
) -> Iterator[None]:
    """``work`` on a thread, as another process would do it; what it asserts counts."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            with Federation(directory_of(trainer), evaluate, wait=30.0) as federation:
                work(federation)
        except BaseException as error:  # noqa: BLE001 - raised again below
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join(30)
    assert not thread.is_alive()
    if failed:
        raise failed[0]


def moved(model: Model, by: float) -> Model:
    return {name: array + np.float32(by) for name, array in model.items()}


def start(trainer: OutsideTrainer) -> Vector:
    return np.random.default_rng(0).normal(size=trainer.model.dimension)


# -- what is handed over
def test_a_loop_gets_named_arrays_and_what_the_members_agreed_on(node: Make) -> None:
    trainer, seen = node(), []
    first = trainer.initial_parameters()
    assert (first[:6] != 0).all()
    assert first[6:].tolist() == [0, 0, 1, 0, 0]

    def work(federation: Federation) -> None:
        assert federation.arguments == {"steps": 2, "rate": 0.5, "name": "x"}
        assert (federation.mode, federation.rounds, federation.seconds) == ("none", 3, 0.75 * LONG)
        for model in federation:
            seen.append((federation.round, {name: array.shape for name, array in model.items()}))
            assert federation.send(moved(model, 0.25))
        assert federation.receive() is None
        assert np.array_equal(federation.model["layer.w"].flatten(), last[:6].astype(np.float32))

    with loop(trainer, work):
        trainer.round = 4
        last = trainer.contribution(trainer.contribution(first, NOTHING), NOTHING)
        trainer.end(last)
    assert np.allclose(last, first + 0.5, atol=1e-6)
    shapes = {"layer.w": (2, 3), "layer.b": (2,), "scale": (), "zero": (1, 2)}
    assert seen == [(4, shapes)] * 2


def test_what_the_loop_leaves_alone_stays_what_it_is_to_the_last_bit(node: Make) -> None:
    trainer = node("organisation")
    before = start(trainer)
    with loop(trainer, lambda federation: federation.send(federation.receive() or {})):
        after = trainer.contribution(before, NOTHING)
    assert np.array_equal(after, before)
    assert trainer.idle == ""


@pytest.mark.parametrize("by", [1e-3, 0.4, 1e30])
def test_in_mode_organisation_the_node_itself_clips_all_that_changed(node: Make, by: float) -> None:
    trainer, kept = node("organisation"), []

    def work(federation: Federation) -> None:
        federation.send(moved(federation.receive() or {}, by))
        kept.append(federation.kept)

    before = start(trainer)
    with loop(trainer, work):
        moved_by = float(np.linalg.norm(trainer.contribution(before, NOTHING) - before))
    whole, limit = by * np.sqrt(len(before)), 0.5
    assert moved_by <= limit
    assert moved_by == pytest.approx(min(whole, limit), rel=1e-3)
    assert kept == [pytest.approx(min(1.0, limit / whole), rel=1e-3)]


def test_only_the_user_of_the_node_may_connect(node: Make) -> None:
    assert stat.S_IMODE((directory_of(node()) / SOCKET).stat().st_mode) == 0o600


# -- what goes wrong
def test_without_a_loop_the_round_goes_on_unchanged_and_says_so(
    node: Make, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = node(seconds=SHORT)
    trainer.round = 7
    before = start(trainer)
    assert np.array_equal(trainer.contribution(before, NOTHING), before)
    assert caplog.messages == [f"round 7: no training here: {trainer.idle}"]
    assert "no training loop is connected" in trainer.idle
    assert trainer.evaluation(before, NOTHING).tolist() == [0, 0, 0]


def test_what_comes_late_does_not_count_and_the_next_round_does(node: Make) -> None:
    trainer, before = node(seconds=SHORT), np.ones(11)
    received, over, told = threading.Event(), threading.Event(), threading.Event()

    def work(federation: Federation) -> None:
        model = federation.receive() or {}
        received.set()
        assert over.wait(30)
        assert federation.send(moved(model, 1.0)) is False
        told.set()
        assert federation.send(moved(federation.receive() or {}, 1.0)) is True

    with loop(trainer, work):
        while not received.is_set():  # the loop may come too late even to be late
            assert np.array_equal(trainer.contribution(before, NOTHING), before)
        over.set()
        assert told.wait(30)
        trainer._seconds = LONG
        assert np.array_equal(trainer.contribution(before, NOTHING), before + 1)


def test_a_loop_that_goes_on_without_sending_is_not_waited_for(node: Make) -> None:
    trainer = node()
    before = start(trainer)

    def work(federation: Federation) -> None:
        federation.receive()
        federation.send(moved(federation.receive() or {}, 1.0))

    with loop(trainer, work):
        assert np.array_equal(trainer.contribution(before, NOTHING), before)
        assert trainer.idle == "the training loop went on without"
        assert np.allclose(trainer.contribution(before, NOTHING), before + 1)
    assert trainer.idle == ""


def test_what_is_no_model_is_refused_and_another_may_be_sent(node: Make) -> None:
    trainer = node()

    def work(federation: Federation) -> None:
        good = federation.receive() or {}
        cases: list[tuple[dict[str, Any], str]] = [
            ({**good, "layer.w": good["layer.w"].T}, r"layer\.w: the shape is \(3, 2\), .* \(2, 3\)"),
            ({name: good[name] for name in ("layer.w", "scale", "zero")}, r"layer\.b: missing"),
            ({**good, "other": good["scale"]}, "other: no such array"),
            ({**good, "layer.b": [np.nan, 1.0]}, r"1 values of layer\.b are not finite"),
            ({**good, "layer.b": [np.inf, -np.inf]}, r"2 values of layer\.b are not finite"),
            ({**good, "layer.b": "hello"}, r"layer\.b: no array of numbers"),
            ({**good, "layer.b": [[1.0], 2.0]}, r"layer\.b: no array of numbers"),
            ({**good, "layer.b": [1j, 1.0]}, r"layer\.b: an array of complex numbers"),
        ]
        for wrong, reason in cases:
            with pytest.raises(ValueError, match=reason):
                federation.send(wrong)
        with pytest.raises(TypeError, match=r"send\(\) takes arrays by name, .* not NoneType"):
            federation.send(None)  # type: ignore[arg-type]  # as a function that forgot to return gives
        assert federation.send(moved(good, 1.0))

    before = start(trainer)
    with loop(trainer, work):
        assert np.allclose(trainer.contribution(before, NOTHING), before + 1)


def test_the_newest_loop_is_served_and_the_one_before_told(node: Make) -> None:
    trainer, before = node(), np.ones(11)

    def work(old: Federation) -> None:
        model = old.receive() or {}
        with Federation(directory_of(trainer)) as newest:
            with pytest.raises(ConnectionError, match="another training loop has taken over"):
                old.send(moved(model, 5.0))
            newest.send(moved(newest.receive() or {}, 1.0))

    with loop(trainer, work):
        assert np.array_equal(trainer.contribution(before, NOTHING), before + 1)


def test_a_loop_that_dies_costs_its_round_and_another_may_come(node: Make) -> None:
    trainer, before, received = node(seconds=SHORT), np.ones(11), threading.Event()

    def dies(federation: Federation) -> None:
        federation.receive()
        received.set()

    with loop(trainer, dies):
        while not received.is_set():
            assert np.array_equal(trainer.contribution(before, NOTHING), before)
    trainer._seconds = LONG
    with loop(trainer, lambda federation: federation.send(moved(federation.receive() or {}, 1.0))):
        assert np.array_equal(trainer.contribution(before, NOTHING), before + 1)


def test_whoever_waits_for_a_loop_can_be_sent_home(node: Make) -> None:
    trainer = node()
    threading.Timer(0.02, trainer.close).start()
    before = start(trainer)
    assert np.array_equal(trainer.contribution(before, NOTHING), before)
    assert not (directory_of(trainer) / SOCKET).exists()


def test_when_the_node_has_gone_the_loop_knows_whether_that_was_the_end(node: Make) -> None:
    trainer = node()
    federation = Federation(directory_of(trainer))
    trainer.close()
    with pytest.raises(ConnectionError, match="has stopped, or another training loop"):
        federation.receive()
    Status(peer="p", federation="f", phase="done").write(directory_of(trainer))
    assert federation.receive() is None
    with pytest.raises(ConnectionError, match="is `p2pfl node` running there"):
        Federation(directory_of(trainer), wait=0.0)


# -- evaluations
@pytest.mark.parametrize(("mode", "part"), [("none", 1.0), ("organisation", 1 / 8)])
def test_evaluations_are_what_the_loop_measured(node: Make, mode: str, part: float) -> None:
    trainer, before = node(mode), np.zeros(11)
    with Federation(directory_of(trainer), evaluate=lambda model: (6.0, 8.0, 3.0)) as federation:
        asked = threading.Thread(target=federation.receive)
        asked.start()
        sums = trainer.evaluation(before, NOTHING)
        assert sums.tolist() == [6 * part, 8 * part, 3 * part]
        assert trainer.evaluate(before, NOTHING).total == 8
        assert trainer.evaluate(before + 1, NOTHING).total == 0
        trainer.end(before)
        asked.join(30)
    with pytest.raises(ManifestProblem, match="only your own training loop knows"):
        trainer.evaluate(before, NOTHING, Table(np.zeros((1, 1)), np.zeros(1)))


@pytest.mark.parametrize(
    ("said", "sums"),
    [
        ((10**9, 1, -5.0), [1, 1, 0]),
        ((-1.0, 8.0, 99.0), [0, 8, 8]),
        ((1.0, 2.0**21, 0.5), [1, 2**20, 0.5]),
        ((2.0, np.inf, np.inf), [2, 2**20, 2**20]),
        ((3.0, 4.0, np.nan), [3, 4, 4]),
        ((np.nan, 4.0, 1.0), [0, 4, 1]),
        ((3.0, np.nan, 1.0), [0, 0, 0]),
    ],
)
def test_what_was_measured_is_cut_to_what_records_add_up_to(
    node: Make, caplog: pytest.LogCaptureFixture, said: tuple[float, ...], sums: list[float]
) -> None:
    trainer = node()
    trainer.round = 5
    with loop(trainer, Federation.receive, evaluate=lambda model: said):
        assert trainer.evaluation(np.zeros(11), NOTHING).tolist() == sums
        trainer.end(None)
    assert caplog.messages == ["round 5: the training loop measured what no records add up to: cut"]


def test_no_answer_is_one_and_two_numbers_are_none(node: Make) -> None:
    trainer = node()
    with loop(trainer, Federation.receive):
        assert trainer.evaluation(np.zeros(11), NOTHING).tolist() == [0, 0, 0]
        trainer.end(None)

    def work(federation: Federation) -> None:
        with pytest.raises(ValueError, match="an evaluation is three numbers"):
            federation.receive()
        federation.receive()

    trainer = node()
    with loop(trainer, work, evaluate=lambda model: (1.0, 2.0)):
        assert trainer.evaluation(np.zeros(11), NOTHING).tolist() == [0, 0, 0]
        trainer.end(None)


# -- the wire
@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=64), st.integers(0, 100))
def test_whatever_comes_over_the_socket_is_a_frame_or_refused(data: bytes, most: int) -> None:
    one, other = socket.socketpair()
    with one, other:
        one.sendall(data)
        one.shutdown(socket.SHUT_WR)
        try:
            header, payload = read_frame(other, most)
        except ConnectionError:
            return
        assert isinstance(header["kind"], str)
        assert len(payload) <= most


def test_frames_come_back_and_large_ones_are_refused_before_they_are_read() -> None:
    one, other = socket.socketpair()
    with one, other:
        send_frame(one, {"kind": "x", "n": 3}, b"abc")
        assert read_frame(other, 3) == ({"kind": "x", "n": 3}, bytearray(b"abc"))
        one.sendall(b"\x01" + (5).to_bytes(4, "big") + (1 << 60).to_bytes(8, "big"))
        with pytest.raises(ConnectionError, match="at most 3 are allowed"):
            read_frame(other, 3)


def test_nonsense_costs_its_sender_the_connection_and_nobody_else(node: Make) -> None:
    trainer = node()
    for nonsense in (b"GET / HTTP/1.1\r\n\r\n", b"", b"\x02" * 40):
        with socket.socket(socket.AF_UNIX) as stranger, address_in(directory_of(trainer)) as address:
            stranger.connect(address)
            stranger.sendall(nonsense)
            stranger.shutdown(socket.SHUT_WR)
            with suppress(ConnectionResetError):
                assert stranger.recv(1) == b""
    before = start(trainer)
    with loop(trainer, lambda federation: federation.send(moved(federation.receive() or {}, 1.0))):
        assert np.allclose(trainer.contribution(before, NOTHING), before + 1)


# -- the example
def test_a_loop_needs_neither_torch_nor_trio() -> None:
    check = "import sys, p2pfl.training_loop; print(sorted({'torch', 'trio', 'libp2p'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_example_is_short_and_three_hospitals_learn_by_it(node: Make, tmp_path: Path) -> None:
    example = EXAMPLES / "own_loop"
    assert len((example / "loop.py").read_text(encoding="utf-8").splitlines()) < 40
    toml = (example / "federation.toml").read_text(encoding="utf-8").replace("ISSUER", ISSUER)
    manifest = from_toml(toml)
    manifest = replace(manifest, timing=replace(manifest.timing, ready_seconds=80.0))
    names = ("north", "south", "west")
    members = {name: node(manifest=manifest) for name in names}
    files = {
        name: [EXAMPLES / "wards" / f"{name}-{part}.csv" for part in ("train", "test")] for name in names
    }
    loops = [
        subprocess.Popen(
            [sys.executable, example / "loop.py", directory_of(members[name]), *files[name]],
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in names
    ]
    parameters = members["north"].initial_parameters()
    for _ in range(manifest.training.rounds):
        parts = [trainer.contribution(parameters, NOTHING) for trainer in members.values()]
        parameters = np.mean(parts, axis=0)
    sums = np.sum([trainer.evaluation(parameters, NOTHING) for trainer in members.values()], axis=0)
    for trainer in members.values():
        trainer.end(parameters)
    said = [process.communicate(timeout=60)[0] for process in loops]
    assert [process.returncode for process in loops] == [0, 0, 0]
    assert all(text.startswith("the last model: {'weight'") for text in said)
    assert sums[1] == 180
    assert sums[2] / sums[1] < 0.64
