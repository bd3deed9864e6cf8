"""Whatever is read by path is never waited for: a pipe that nobody writes to is refused at once."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from p2pfl.node.config import load_config
from p2pfl.node.errors import ExitCode, UserError
from p2pfl.node.membership.admission import read_tickets
from p2pfl.node.membership.network_key import read_key
from p2pfl.node.monitoring.status import FILE, read_status
from p2pfl.node.monitoring.status_server import read_token
from p2pfl.node.storage.declared_file import digest_of_file, read_declared_tensors
from p2pfl.node.storage.identity_file import load_identity
from p2pfl.node.storage.manifest_file import read_manifest
from p2pfl.node.storage.own_file import read_own
from p2pfl.node.training.table import check_readable

READERS: list[tuple[Callable[[Path], object], ExitCode]] = [
    (read_tickets, ExitCode.TICKET),
    (read_key, ExitCode.CONFIG),
    (read_token, ExitCode.CONFIG),
    (lambda path: load_config(path, {}, {}), ExitCode.CONFIG),
    (load_identity, ExitCode.IDENTITY),
    (read_manifest, ExitCode.FEDERATION),
    (check_readable, ExitCode.DATA),
    (digest_of_file, ExitCode.DATA),
    (lambda path: read_declared_tensors(path, "0" * 64), ExitCode.DATA),
    (lambda path: read_own(path, {}), ExitCode.STORAGE),
    (lambda path: read_status(path.parent), ExitCode.STORAGE),
]


@pytest.fixture
def impatient() -> Iterator[None]:
    """A reader that waits fails its test instead of the whole run."""

    def ring(_number: int, _frame: object) -> None:
        raise TimeoutError("it waits for somebody to write")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("read", "exit_code"), READERS)
def test_a_pipe_is_refused_at_once(
    tmp_path: Path, read: Callable[[Path], object], exit_code: ExitCode
) -> None:
    pipe = tmp_path / FILE
    os.mkfifo(pipe, 0o600)
    with pytest.raises(UserError, match=f"{pipe}.*: it is a pipe, not a file that can be read") as caught:
        read(pipe)
    assert caught.value.exit_code is exit_code


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("name", ["rows.csv", "rows.npz"])
def test_records_in_a_pipe_are_refused_at_once(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match="it is a pipe"):
        check_readable(tmp_path / name)


def test_folders_and_devices_are_told_apart(tmp_path: Path) -> None:
    for path, words in ((tmp_path, "is a directory"), (Path("/dev/null"), "it is a device")):
        with pytest.raises(UserError, match=f"^federation.ticket: {path}: cannot be read: {words}"):
            read_tickets(path)
