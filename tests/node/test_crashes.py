import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or platform.machine() not in ("x86_64", "aarch64"),
    reason="system calls are followed on Linux",
)


def crashing(*arguments: str) -> dict[str, int]:
    script = Path(__file__).with_name("crashing.py")
    ended = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=False)
    if ended.returncode == 3:
        pytest.skip("this system lets nobody trace its own children")
    assert ended.returncode == 0, ended.stderr[-2000:]
    found: dict[str, int] = json.loads(ended.stdout)
    return found


def test_nothing_is_lost_with_the_power() -> None:
    found = crashing("power")
    assert found["points"] > 50
    assert found["images"] > 20


def test_nothing_is_lost_by_sigkill() -> None:
    assert crashing("kill", "17")["killed"] > 5


@pytest.mark.slow
def test_nothing_is_lost_by_sigkill_at_any_write() -> None:
    assert crashing("kill", "1")["killed"] > 100
