"""Real daemons on disks that fill up, and with a backup that is put back."""

import resource
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_federation import Federation, Member, p2pfl, wait_until

from p2pfl.node.errors import ExitCode


@pytest.fixture
def four(tmp_path: Path) -> Iterator[Federation]:
    made = Federation(tmp_path, 4, rounds=400)
    for member in made.members:
        made.start(member)
    yield made
    made.stop()


def rounds_of(member: Member) -> int:
    return int(member.status.get("completed", 0))


def go_on(members: list[Member]) -> None:
    reached = max(map(rounds_of, members))
    wait_until(lambda: min(map(rounds_of, members)) >= reached + 2, 300, "two rounds more")


@pytest.mark.slow
def test_a_full_disk_and_an_old_backup_end_one_node_with_a_sentence(four: Federation) -> None:
    victim, others = four.members[3], four.members[:3]
    wait_until(lambda: rounds_of(victim) >= 3, 180, "three rounds")
    backup, config = victim.directory / "one.tar", victim.directory / "node.toml"
    p2pfl("backup", "--config", config, "--out", backup)
    go_on(four.members)

    assert victim.process is not None
    most = (victim.directory / "state" / "p2pfl.sqlite").stat().st_size
    resource.prlimit(victim.process.pid, resource.RLIMIT_FSIZE, (most, most))
    assert victim.wait(120) == ExitCode.STORAGE, victim.log
    assert "p2pfl: error: " in victim.log
    assert "Traceback" not in victim.log
    go_on(others)
    checked = p2pfl("node", "--check", "--config", config, "--ticket", victim.directory / "ticket.txt",
                    "--federation", four.id)  # fmt: skip
    assert "WRONG" not in checked.stdout

    four.start(victim)
    go_on(four.members)
    victim.kill()
    shutil.rmtree(victim.directory / "state")
    with tarfile.open(backup) as archive:
        archive.extractall(victim.directory, filter="data")
    four.start(victim)
    assert victim.wait(120) == ExitCode.STORAGE, victim.log
    assert "holds this node's own signature of round" in victim.log
    assert "Traceback" not in victim.log
    go_on(others)
