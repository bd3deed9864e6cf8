"""Speaking to the operator: messages on stderr behind a ``p2pfl:`` prefix, results on stdout, colour only
where someone looks.
"""

import os
import sys
from typing import TextIO

_RED = "\x1b[31m"
_PLAIN = "\x1b[0m"


def alarm(text: str, stream: TextIO | None = None) -> str:
    """``text``, red if ``stream`` (default: standard output) is a terminal and NO_COLOR is not set.

    What NO_COLOR means: https://no-color.org.
    """
    stream = stream or sys.stdout
    coloured = stream.isatty() and not os.environ.get("NO_COLOR")
    return f"{_RED}{text}{_PLAIN}" if coloured else text


def note(message: str) -> None:
    """Say something that is not the result."""
    print(f"p2pfl: {message}", file=sys.stderr)


def complain(what: str, hint: str) -> None:
    """Say what went wrong and what to do about it, one line each."""
    try:
        print(f"p2pfl: {alarm('error', sys.stderr)}: {one_line(what)}", file=sys.stderr)
        if hint:
            print(f"p2pfl: hint: {one_line(hint)}", file=sys.stderr)
    except OSError:  # the full disk may be where this goes; Python would try again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def one_line(text: str) -> str:
    """``text`` without line breaks and other control characters, whoever wrote it."""
    return "".join(character if character.isprintable() else " " for character in text)
