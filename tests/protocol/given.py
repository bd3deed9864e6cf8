"""The examples of docs/protocol.md, and which of their lines a computation has read."""

import re
from collections.abc import Mapping
from pathlib import Path

from p2pfl.crypto.identity import Identity

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")


class Given:
    """The lines of one example; remembers which were read."""

    def __init__(self, lines: Mapping[str, str]) -> None:
        self.lines = lines
        self.read: set[str] = set()

    def text(self, key: str) -> str:
        self.read.add(key)
        return self.lines[key]

    def number(self, key: str) -> int:
        return int(self.text(key))

    def numbers(self, key: str) -> list[int]:
        return [int(word) for word in self.text(key).split()]

    def blob(self, key: str) -> bytes:
        return bytes.fromhex(self.text(key))

    def identity(self, key: str) -> Identity:
        return Identity.from_seed(self.blob(key))


def examples() -> dict[str, dict[str, str]]:
    found = {}
    for name, block in re.findall(r"^```example ([a-z ]+)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE):
        assert name not in found, name
        lines = re.sub(r"\n +", "", block).splitlines()
        found[name] = dict(line.split(" = ", 1) for line in lines)
        assert len(found[name]) == len(lines), name
    return found


EXAMPLES = examples()
