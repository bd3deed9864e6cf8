"""Breaks what matters, one thing at a time, and sees whether the tests notice.

    python tools/mutants.py [--part sum|privacy] [word ...]

Each line of tools/mutant_table.py (part sum: the secure sum) and tools/privacy_mutants.py (part privacy) is
applied to a copy of the clone, and the tests that should notice are run there until one fails. A word narrows
it to mutants whose module or description contains it. Exit status 1 if one survives, or if an old text does
not occur exactly once any more; the table then needs a look.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Final

import mutant_table
import privacy_mutants

PARTS: Final = {"sum": mutant_table.MUTATIONS, "privacy": privacy_mutants.MUTATIONS}
ROOT: Final = Path(__file__).resolve().parent.parent
SUBPACKAGES: Final = ("gossip", "crypto", "topologies", "node")
PATIENCE: Final = 2.0
"""Times as long as all the tests take without a mutant: some of them that run for longer do not end, which is
noticing, too."""


@dataclass(frozen=True, slots=True)
class Mutant:
    module: str
    tests: str
    old: str
    new: str
    breaks: str


def mutants(parts: Iterable[str], words: list[str]) -> Iterator[Mutant]:
    for (module, tests), mutations in (one for part in parts for one in PARTS[part].items()):
        for mutation in mutations:
            mutant = Mutant(module, tests, *mutation)
            if not words or any(word in f"{module}: {mutant.breaks}" for word in words):
                yield mutant


def unapplied(mutant: Mutant) -> str | None:
    """Why this mutant cannot be made."""
    file = ROOT / f"{mutant.module}.py"
    count = file.read_text().count(mutant.old) if file.exists() else 0
    return None if count == 1 else f"its old text occurs {count} times"


def copy(to: Path) -> Path:
    """The packages as they are installed, and the tests, so that nothing of the clone itself is imported; and
    what tests read.
    """
    leave = shutil.ignore_patterns("__pycache__", "corpus")
    shutil.copytree(ROOT / "p2pfl", to / "p2pfl", ignore=leave)
    for package in SUBPACKAGES:
        shutil.copytree(ROOT / package, to / "p2pfl" / package, ignore=leave)
    for folder in ("tests", "docs", "examples"):
        shutil.copytree(ROOT / folder, to / folder, ignore=leave)
    shutil.copy(ROOT / "pyproject.toml", to)
    return to


def run(where: Path, tests: Iterable[str], seconds: float | None = None) -> str | None:
    """The first test that fails, or None. Raises TimeoutExpired."""
    files = [f"tests/{'/test_'.join(name.rsplit('/', 1))}.py" for name in tests]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *files]
    environment = {**os.environ, "PYTHONPATH": str(where), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command, cwd=where, env=environment, timeout=seconds, capture_output=True, text=True, check=False
    )
    found = re.search(r"^(?:FAILED|ERROR) tests/(\S+)", done.stdout, re.MULTILINE)
    return None if done.returncode == 0 else found[1] if found else done.stdout[-500:] + done.stderr[-500:]


def try_out(mutant: Mutant, copies: "SimpleQueue[Path]", seconds: float) -> str | None:
    """What notices this mutant within so many seconds, or None."""
    where = copies.get()
    file = where / "p2pfl" / f"{mutant.module.removeprefix('p2pfl/')}.py"
    right = file.read_text()
    try:
        file.write_text(right.replace(mutant.old, mutant.new))
        return run(where, mutant.tests.split(), seconds)
    except subprocess.TimeoutExpired:
        return "the tests do not end"
    finally:
        file.write_text(right)
        copies.put(where)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(parts: Iterable[str], words: list[str]) -> int:
    chosen = list(mutants(parts, words))
    bad = [(mutant, why) for mutant in chosen if (why := unapplied(mutant))]
    for mutant, why in bad:
        say(f"{mutant.module}: {mutant.breaks}: {why}")
    fit = [mutant for mutant in chosen if unapplied(mutant) is None]
    if not fit:
        say("no mutant to try")
        return 1
    began, workers = time.monotonic(), os.cpu_count() or 1
    survived = 0
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(workers) as pool:
        copies = SimpleQueue[Path]()
        for number in range(workers):
            copies.put(copy(Path(scratch) / str(number)))
        failed = run(
            copy(Path(scratch) / "whole"), sorted({test for mutant in fit for test in mutant.tests.split()})
        )
        if failed is not None:
            say(f"without any mutant: {failed}")
            return 1
        patience = PATIENCE * (time.monotonic() - began)
        tried = pool.map(lambda mutant: try_out(mutant, copies, patience), fit)
        for mutant, by in zip(fit, tried, strict=True):
            survived += by is None
            say(f"{mutant.module}: {mutant.breaks}: {by or 'SURVIVED'}")
    say(f"{len(fit)} mutants, {survived} survived, {time.monotonic() - began:.0f} seconds")
    return 1 if survived or bad else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--part", choices=tuple(PARTS), help="of what (default: all)")
    parser.add_argument("words", metavar="WORD", nargs="*", help="in module or description")
    options = parser.parse_args()
    sys.exit(main([options.part] if options.part else PARTS, options.words))
