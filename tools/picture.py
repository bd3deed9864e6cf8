"""Draw what a command printed (standard input) as a terminal, in SVG.

Usage: picture.py "the command" < output > picture.svg
"""

import sys
from html import escape

WIDTH, LINE, SIZE, MARGIN = 8.43, 19, 14, 16


def svg(command: str, output: str) -> str:
    """A dark terminal of the size that the text needs."""
    lines = [f"$ {command}", *output.rstrip().split("\n")]
    width = 2 * MARGIN + WIDTH * max(map(len, lines))
    height = 2 * MARGIN + LINE * len(lines)
    rows = "\n".join(
        f'<text x="{MARGIN}" y="{MARGIN + LINE * number + SIZE}"{_style(number, line)}>{escape(line)}</text>'
        for number, line in enumerate(lines)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" font-size="{SIZE}"'
        ' font-family="ui-monospace, Menlo, Consolas, monospace" fill="#d8dee9" xml:space="preserve"'
        ' style="white-space:pre">\n'
        f'<rect width="100%" height="100%" rx="8" fill="#1e222a"/>\n{rows}\n</svg>\n'
    )


def _style(number: int, line: str) -> str:
    if number == 0:
        return ' fill="#a3be8c"'
    return ' font-weight="bold" fill="#ffffff"' if line.startswith("this federation") else ""


if __name__ == "__main__":
    sys.stdout.write(svg(sys.argv[1], sys.stdin.read()))
