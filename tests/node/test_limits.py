"""Caps on memory and threads, each in a process of its own."""

import subprocess
import sys

import pytest

from p2pfl.node.errors import ConfigError
from p2pfl.node.limits import explaining_lack_of_memory


def run(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_memory_beyond_the_limit_is_refused_and_the_limit_can_be_raised() -> None:
    lines = run("""
import numpy as np
from p2pfl.node.errors import ConfigError
from p2pfl.node.limits import asked_for, explaining_lack_of_memory, limit_memory
for allowed in (200, 2000):
    limit = asked_for() + (allowed << 20)
    limit_memory(limit)
    try:
        with explaining_lack_of_memory(limit):
            np.ones(100 << 20, np.uint8), np.ones(200 << 20, np.uint8)
        print("enough")
    except ConfigError as error:
        print(error.what)
try:
    limit_memory(1 << 20)
except ConfigError as error:
    print(error.what)
limit_memory(None)
""")
    assert lines[0].startswith("limits.memory: the node needs more than the ")
    assert lines[1] == "enough"
    assert lines[2].startswith("limits.memory: 1 MB is less than the ")


def test_what_torch_and_threads_say_is_understood_and_nothing_else() -> None:
    for text in ("DefaultCPUAllocator: can't allocate memory: you tried", "can't start new thread"):
        with (
            pytest.raises(ConfigError, match="needs more than the 1000 MB"),
            explaining_lack_of_memory(10**9),
        ):
            raise ExceptionGroup("in a nursery", [RuntimeError(text)])
    for limit, error in ((10**9, RuntimeError("a bug")), (None, MemoryError())):
        with pytest.raises(type(error)) as caught, explaining_lack_of_memory(limit):
            raise error
        assert caught.value is error


def test_threads_are_what_torch_uses() -> None:
    assert run(
        "from p2pfl.node.limits import limit_threads\n"
        "limit_threads(1)\n"
        "import torch\n"
        "print(torch.get_num_threads())"
    ) == ["1"]
