"""Text: where a record ends, what is left out, what is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfl.gossip.manifest import TextTask
from p2pfl.node.errors import DataError
from p2pfl.node.training.table import Table, load_table
from p2pfl.node.training.text import PADDING, load_text

TASK = TextTask("text", "abcd \n", 4, "line")
Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def writer(content: str) -> Path:
        path = tmp_path / "text.txt"
        path.write_bytes(content.encode())
        return path

    return writer


def texts(table: Table) -> list[str]:
    """The records, put together again from characters and what follows them."""
    found = []
    for inputs, targets in zip(table.features, table.labels, strict=True):
        count = int((targets != PADDING).sum())
        assert inputs[1:count].tolist() == targets[: count - 1].tolist()
        assert (targets[count:] == PADDING).all()
        places = [*inputs[:count].tolist(), int(targets[count - 1])]
        found.append("".join(TASK.alphabet[place] for place in places))
    return found


def test_a_line_is_a_record_cut_to_the_window(write: Write) -> None:
    table = load_table(write("abc\n\na\nabcdabcd\r\nda"), TASK)
    assert texts(table) == ["abc", "abcda", "da"]
    assert table.dropped == 1 + 3
    assert table.features.shape == table.labels.shape == (3, 4)
    assert table.features.dtype == table.labels.dtype == np.int16


def test_a_document_ends_at_an_empty_line(write: Write) -> None:
    table = load_table(write("\n\na\nb\n\n \ncd ab\nd\n"), replace(TASK, record="document"))
    assert texts(table) == ["a\nb", "cd ab"]
    assert table.dropped == 2


def test_a_chunk_ends_when_it_is_full(write: Write) -> None:
    table = load_table(write("abcd\nabcd\na"), replace(TASK, record="chunk"))
    assert texts(table) == ["abcd\n", "abcd\n"]
    assert table.dropped == 1


@given(st.text("abcd \n", max_size=60), st.integers(1, 9))
def test_chunks_put_together_are_the_text(
    tmp_path_factory: pytest.TempPathFactory, text: str, n: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "chunks.txt"
    path.write_text(text)
    task = replace(TASK, record="chunk", window=n)
    try:
        table = load_table(path, task)
    except DataError:
        assert len(text) < 2
        return
    assert "".join(texts(table)) == text[: len(text) - table.dropped]
    assert table.dropped <= 1


def test_characters_outside_the_alphabet(write: Write) -> None:
    path = write("ab\naxb\nxx\n")
    with pytest.raises(DataError, match="line 2: 'x' is not in the declared alphabet") as caught:
        load_table(path, TASK)
    assert "task.unknown" in caught.value.hint
    table = load_table(path, replace(TASK, unknown="skip"))
    assert texts(table) == ["ab", "ab"]
    assert table.dropped == 3
    with pytest.raises(DataError, match="line 4: 'x'"):
        load_table(write("a\nb\n\ncx\n"), replace(TASK, record="document"))
    with pytest.raises(DataError, match=r"line 1: '\\x1b'"):
        load_table(write("a\x1b[2J\n"), TASK)


def test_what_cannot_be_used_is_named(write: Write, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no record of two characters"):
        load_table(write("a\nb\n"), TASK)
    with pytest.raises(DataError, match="no such file"):
        load_table(tmp_path / "absent", TASK)
    (tmp_path / "latin").write_bytes(b"\xe9\xe9")
    with pytest.raises(DataError, match="UTF-8"):
        load_table(tmp_path / "latin", TASK)
    with pytest.raises(DataError, match="more than 2 records"):
        load_text(write("ab\nab\nab\n"), TASK, 2)
