"""The identity file: exactly one owner, never overwritten, never quoted in a message."""

import os
import stat
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfl.crypto.identity import Identity
from p2pfl.node.errors import IdentityError
from p2pfl.node.storage.identity_file import PREFIX, load_identity, save_identity

IDENTITY = Identity.from_seed(bytes(range(32)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "identity.key"
    save_identity(path, IDENTITY)
    return path


def key_line(path: Path) -> str:
    return path.read_text().splitlines()[-1]


def rewritten(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def reason(path: Path) -> str:
    with pytest.raises(IdentityError) as caught:
        load_identity(path)
    assert str(path) in caught.value.what
    assert PREFIX not in caught.value.what + caught.value.hint
    return caught.value.what


def test_what_was_saved_is_loaded(path: Path) -> None:
    assert load_identity(path).seed == IDENTITY.seed
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert f"# peer id: {IDENTITY.peer_id}" in path.read_text()
    assert key_line(path).startswith(PREFIX)


def test_the_form_never_moves(path: Path) -> None:
    assert key_line(path) == "P2PFL-SECRET-KEY-1AAAQEAYEAUDAOCAJBIFQYDIOB4IBCEQTCQKRMFYYDENBWHA5DYPUOCID4E"


def test_an_identity_is_never_overwritten(path: Path) -> None:
    with pytest.raises(IdentityError, match="never overwritten"):
        save_identity(path, Identity.from_seed(bytes(32)))
    assert load_identity(path).seed == IDENTITY.seed


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o644, 0o620, 0o601, 0o777])
def test_a_key_that_others_can_open_is_refused(path: Path, mode: int) -> None:
    path.chmod(mode)
    assert f"mode {mode:04o}" in reason(path)
    path.chmod(0o400)
    assert load_identity(path).peer_id == IDENTITY.peer_id


def test_a_missing_one_is_named(tmp_path: Path) -> None:
    assert "no identity file" in reason(tmp_path / "gone.key")


def test_directories_and_pipes_are_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir(mode=0o700)
    assert "is a directory" in reason(tmp_path / "dir")
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert "it is a pipe" in reason(tmp_path / "pipe")


@given(st.data())
def test_every_changed_character_is_noticed(data: st.DataObject) -> None:
    from p2pfl.node.storage.identity_file import _encode, _parse

    line = _encode(IDENTITY.seed)
    position = data.draw(st.integers(0, len(line) - 1))
    character = data.draw(st.characters(min_codepoint=33, max_codepoint=126))
    changed = line[:position] + character + line[position + 1 :]
    if line == changed:
        return
    if position == len(line) - 1:
        # It carries two bits that mean nothing: another one may be the same key, never another key.
        with suppress(IdentityError):
            assert _parse(Path("x"), changed.encode()) == IDENTITY.seed
        return
    with pytest.raises(IdentityError, match="damaged") as caught:
        _parse(Path("x"), changed.encode())
    assert changed not in caught.value.what + caught.value.hint


@given(st.binary(max_size=300))
def test_any_bytes_raise_an_identity_error(data: bytes) -> None:
    from p2pfl.node.storage.identity_file import _parse

    with pytest.raises(IdentityError):
        _parse(Path("x"), data)


def test_truncated_doubled_and_foreign_files_are_refused(path: Path) -> None:
    line = key_line(path)
    for text in (
        line[:-8],
        f"{line}\n{line}\n",
        "",
        "# nothing\n",
        "-----BEGIN OPENSSH PRIVATE KEY-----\n",
        "A" * 5000,
    ):
        assert "not an identity, or damaged" in reason(rewritten(path, text))


def test_what_a_file_is_matters_before_who_may_read_it(path: Path) -> None:
    path.chmod(0o644)
    assert "open to others" in reason(path)
    for text in ("p2pfl-ticket-v1:AAAA\n", "\n# for north\n p2pfl-ticket-v1:AAAA"):
        assert "a ticket, not an identity" in reason(rewritten(path, text))
    assert "not an identity" in reason(rewritten(path, 'identity = "identity.key"\n'))


def test_white_space_and_comments_do_not_matter(path: Path) -> None:
    assert load_identity(rewritten(path, f"\r\n# mine\r\n  {key_line(path)}  \r\n")).seed == IDENTITY.seed
