"""Draw the plots of the guides again: run the commands in docs/*.md below `<!-- drawn -->`, and keep the
pictures that the page shows.

Usage: draw.py [PAGE …]
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

DOCS = Path(__file__).resolve().parent.parent / "docs"
DRAWN = re.compile(r"<!-- drawn -->\n```sh\n(.*?)```", re.DOTALL)
SHOWN = re.compile(r"!\[[^\]]*\]\(plots/([^)]+)\)")


def draw(page: Path) -> None:
    """Run the commands of ``page`` somewhere else; copy what it shows to docs/plots."""
    text = page.read_text(encoding="utf-8")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with TemporaryDirectory() as directory:
        for commands in DRAWN.findall(text):
            subprocess.run(
                ["bash", "-euc", commands], cwd=directory, env={**os.environ, "PATH": path}, check=True
            )
        for name in SHOWN.findall(text):
            (DOCS / "plots" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path(directory) / name, DOCS / "plots" / name)


if __name__ == "__main__":
    for page in [Path(name) for name in sys.argv[1:]] or sorted(DOCS.glob("*.md")):
        draw(page)
