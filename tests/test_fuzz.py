"""Every decoder against the corpus and some hundred mutations; `make fuzz` goes on for as long as it is told.

And the fuzzer itself: that it finds what there is to find, and tries the same inputs again for the same seed.
"""

import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from fuzzing import CORPUS, TARGETS, Finding, attempt, campaign, interruptible, keep, known
from message_targets import MESSAGE_TARGETS
from target import Target

from p2pfl.gossip.participant import MESSAGES

MUTATIONS = 200
MOST_CORPUS_BYTES = 240_000

each = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)


@each
def test_a_decoder_only_refuses(target: Target) -> None:
    assert campaign(target, "test", lambda executions: executions < MUTATIONS).executions == MUTATIONS


@each
def test_seeds_are_accepted(target: Target) -> None:
    """Else nothing behind the first check would ever be reached."""
    with interruptible():
        assert {attempt(target, seed, weigh=True) for seed in target.seeds} == {("accepted",)}


def test_every_kind_of_message_is_a_target() -> None:
    assert {target.name for target in MESSAGE_TARGETS} == {f"message-{tag}" for tag in MESSAGES}
    assert len({target.name for target in TARGETS}) == len(TARGETS)


def test_the_corpus_is_small_and_belongs_to_the_targets() -> None:
    assert {folder.name for folder in CORPUS.iterdir()} == {target.name for target in TARGETS}
    assert sum(file.stat().st_size for file in CORPUS.rglob("*") if file.is_file()) <= MOST_CORPUS_BYTES


@pytest.mark.parametrize("target", MESSAGE_TARGETS, ids=lambda target: target.name)
def test_some_mutated_messages_are_accepted(target: Target) -> None:
    """They are signed again: what is behind the signature is reached."""
    random, others = Random("accepted"), set()
    with interruptible():
        for _ in range(400):
            data = target.reshape(target.seeds[0], random)
            if attempt(target, data, weigh=False) == ("accepted",) and data not in target.seeds:
                others.add(data)
    assert others


def broken(decode: Callable[[bytes], object]) -> Target:
    return Target("broken", decode, (ValueError,), (b"seed",))


def raises_another_exception(data: bytes) -> None:
    if len(data) % 5 == 2:
        raise KeyError(data)


def allocates_too_much(data: bytes) -> None:
    bytearray(1 << 24)


def says_what_cannot_be_printed(data: bytes) -> None:
    if data != b"seed":
        raise ValueError("\x1b[2J")


def says_too_much(data: bytes) -> None:
    if data != b"seed":
        raise ValueError("x" * 10_000)


@pytest.mark.parametrize(
    ("decode", "what"),
    [
        (raises_another_exception, "KeyError"),
        (allocates_too_much, "bytes of memory"),
        (says_what_cannot_be_printed, "cannot be printed"),
        (says_too_much, "10000 characters"),
    ],
)
def test_what_a_decoder_may_not_do_is_found(decode: Callable[[bytes], object], what: str) -> None:
    with pytest.raises(Finding, match=what):
        campaign(broken(decode), "test", lambda executions: executions < MUTATIONS)


def test_a_decoder_that_never_returns_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuzzing.MOST_SECONDS", 1)

    def hangs(data: bytes) -> None:
        while True:
            try:
                time.sleep(60)
            except Exception:  # noqa: BLE001  what a decoder that catches too much would do
                continue

    with pytest.raises(Finding, match="not decoded"), interruptible():
        attempt(broken(hangs), b"seed", weigh=False)


@each
def test_equal_seeds_try_equal_inputs(target: Target) -> None:
    first, second = (campaign(target, "again", lambda executions: executions < 30) for _ in range(2))
    assert first == second


def test_a_finding_can_be_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuzzing.CORPUS", tmp_path)
    target = broken(raises_another_exception)
    path = keep(target, b"another", "found")
    assert path.read_bytes() == b"another"
    assert known(target) == (b"seed", b"another")
    with pytest.raises(Finding):
        campaign(target, "test", lambda _: False)
