"""The configuration read again: what takes effect, what is said to need a restart, what cannot be used."""

import logging
import signal
from collections.abc import Callable
from dataclasses import replace

import pytest
import trio
import trio.testing

from p2pfl.node.config import NodeConfig, load_config
from p2pfl.node.errors import ConfigError
from p2pfl.node.reload import RELOADED, SIGNAL, Reloader, ignore_until_running

BEFORE = load_config(None, {}, {"data_train": "train.csv"})


class Node:
    """Notes what it is told to take over."""

    def __init__(self, reread: Callable[[], NodeConfig]) -> None:
        self.taken: list[str] = []
        apply = {name: (lambda _new, name=name: self.taken.append(name)) for name in RELOADED}
        self.reloader = Reloader(BEFORE, reread, apply)


@pytest.fixture(autouse=True)
def _heard(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "p2pfl")


def test_what_can_change_does_and_the_rest_is_named(caplog: pytest.LogCaptureFixture) -> None:
    new = replace(BEFORE, log_level="debug", listen=("/ip4/127.0.0.1/tcp/1",), threads=2)
    node = Node(lambda: new)
    trio.run(node.reloader.reload)
    assert node.taken == ["log_level"]
    assert set(caplog.messages) == {
        "log.level reloaded",
        "network.listen changed: that needs a restart",
        "limits.threads changed: that needs a restart",
    }
    caplog.clear()
    trio.run(node.reloader.reload)
    assert node.taken == ["log_level"]
    assert len(caplog.messages) == 2, (
        "what was taken over is not news, what still waits for a restart is said"
    )


def test_a_config_that_cannot_be_used_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> NodeConfig:
        raise ConfigError("log.level", "unknown level 'loud'", "use one of debug")

    node = Node(fail)
    trio.run(node.reloader.reload)
    assert node.taken == []
    assert "not reloaded: log.level: unknown level 'loud'; use one of debug" in caplog.messages[0]


def test_one_field_that_cannot_change_stays_alone(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(_new: NodeConfig) -> None:
        raise ConfigError("limits.memory", "too little", "give it more")

    taken: list[str] = []
    new = replace(BEFORE, memory=1 << 30, log_level="error")
    apply = {name: (lambda _: None) for name in RELOADED}
    apply |= {"memory": refuse, "log_level": lambda _: taken.append("level")}
    trio.run(Reloader(BEFORE, lambda: new, apply).reload)
    assert taken == ["level"]
    assert "limits.memory stays as it was: limits.memory: too little; give it more" in caplog.messages


def test_the_signal_reloads_and_does_not_end_the_process_before(caplog: pytest.LogCaptureFixture) -> None:
    before = signal.getsignal(SIGNAL)
    try:
        ignore_until_running()
        signal.raise_signal(SIGNAL)

        async def listen() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(Node(lambda: BEFORE).reloader.run)
                await trio.testing.wait_all_tasks_blocked()
                signal.raise_signal(SIGNAL)
                while not caplog.messages:
                    await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()

        trio.run(listen)
    finally:
        signal.signal(SIGNAL, before)
    assert caplog.messages == ["the configuration is what it was"]
