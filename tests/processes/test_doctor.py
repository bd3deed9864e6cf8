"""`p2pfl doctor` among real nodes: before one starts, while it runs, when it hangs, after it was killed."""

import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from real_federation import Federation, Member, p2pfl, wait_until

pytestmark = pytest.mark.slow


def findings(
    member: Member, monkeypatch: pytest.MonkeyPatch, *options: str, code: int = 0, **settings: str | Path
) -> Mapping[str, Any]:
    """What the doctor finds by check, with ``settings`` that the member is started with."""
    with monkeypatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(f"P2PFL_{name}", str(value))
        patch.setenv("P2PFL_TICKET", str(member.directory / "ticket.txt"))
        patch.setenv("P2PFL_LISTEN", f"/ip4/127.0.0.1/tcp/{member.port}")
        done = p2pfl("doctor", "--config", member.directory / "node.toml", "--json", *options, code=code)
    return {one["check"]: one for one in json.loads(done.stdout)}


def test_before_while_it_runs_hangs_and_is_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    four = Federation(tmp_path, 4, rounds=500)
    try:
        *others, newcomer = four.members
        for member in others:
            four.start(member)
        host = others[0]
        wait_until(lambda: all(one.status.get("connected", 0) == 2 for one in others), 120, "three meet")

        known = {"FEDERATION": four.id, "BOOTSTRAP": host.address}
        before = findings(newcomer, monkeypatch, **known)
        assert before["reachable"]["said"].startswith("both ways"), before
        assert before["secure sum"]["state"] == before["data"]["state"] == before["clocks"]["state"] == "ok"

        four.start(newcomer)
        wait_until(lambda: newcomer.status.get("completed", 0) > 2, 180, "the newcomer takes part")
        during = findings(newcomer, monkeypatch, "--running", FEDERATION=four.id)
        assert during["secure sum"]["said"].startswith("keys, masks and sums agree with 3 of 3 members")
        assert during["rounds"]["state"] == during["node"]["state"] == "ok"

        assert newcomer.process is not None
        newcomer.process.send_signal(signal.SIGSTOP)
        hung = findings(newcomer, monkeypatch, "--running", code=8, FEDERATION=four.id)
        assert "does not answer" in hung["node"]["said"]
        newcomer.kill()
        dead = findings(newcomer, monkeypatch, "--running", "--quiet", code=9, FEDERATION=four.id)
        assert dead["node"]["said"] == "does not run"
        after = findings(newcomer, monkeypatch, FEDERATION=four.id)
        assert (after["members"]["state"], after["members"]["said"]) == ("ok", "3 here")
    finally:
        four.stop()
