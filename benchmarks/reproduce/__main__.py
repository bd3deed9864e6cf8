"""Compute published results anew and write docs/results.md, results.json and parties.svg.

Progress is on stderr, the tables are on stdout. A run that was interrupted goes on where it was, from
reproduce-run/; remove that folder to start afresh.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

from reproduce import digits, page, plot
from reproduce.experiments import measure, planned
from reproduce.rows import Row, dump, load, merged, summarised
from reproduce.runs import Form, carry_out

ROOT: Final = Path(__file__).parents[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """1 if the files of MNIST are not what they should be."""
    parser = argparse.ArgumentParser(prog="reproduce", description=__doc__)
    parser.add_argument("--full", action="store_true", help="all of it, under an hour on two cores")
    parser.add_argument("--mnist", type=Path, metavar="DIR", help="where the four files of MNIST are")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="N", help="processes at a time")
    parser.add_argument("--journal", type=Path, default=ROOT / "reproduce-run", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=ROOT / "docs", metavar="DIR", help="default: docs")
    options = parser.parse_args(arguments)
    form: Form = "full" if options.full else "short"
    if options.mnist is None:
        sys.stderr.write("MNIST's parts are skipped: --mnist DIR (make: MNIST=DIR) says where it is\n")
    elif (wrong := digits.complaint(options.mnist)) is not None:
        sys.stderr.write(f"error: {wrong}; docs/results.md says what belongs there\n")
        return 1
    journal = options.journal / f"{form}.jsonl"
    measured = partial(measure, mnist=options.mnist)
    results = carry_out(planned(form, options.mnist), measured, journal, options.jobs)
    rows = summarised(results)
    write(options.out, rows)
    journal.unlink()
    print("\n".join(page.sections(rows)))
    return 0


def write(folder: Path, fresh: Sequence[Row]) -> None:
    """Put ``fresh`` rows in the place of older ones, and the page and the picture that follow from all."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = merged(load(folder / "results.json"), fresh)
    (folder / "results.json").write_text(dump(rows), encoding="utf-8")
    (folder / "results.md").write_text(page.page(rows), encoding="utf-8")
    try:
        picture = plot.draw(rows)
    except ModuleNotFoundError:
        sys.stderr.write(f"{page.PICTURE} is left as it is: matplotlib is not there (the extra `plots`)\n")
        return
    if picture is not None:
        (folder / page.PICTURE).write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
