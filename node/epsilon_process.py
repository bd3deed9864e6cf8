"""A process that computes epsilon for a node, and ends when nobody has asked for a while: what the arithmetic
takes (SciPy, 100 MB and more while it computes) is given back, and the node's event loop shares no lock with
it.

A question is a line of JSON, ["pld" or "rdp", arguments…], see :mod:`p2pfl.node.epsilons`; the answer is one
number on a line. The process ends with whoever started it, when its standard input is closed.
"""

import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

from p2pfl.node.errors import PrivacyError
from p2pfl.node.libraries import uncollected

IDLE_SECONDS = 300.0
_NICE = 15  # rounds, this node's and others' on the machine, go first: hardly any waits for a number
_MOST_KNOWN = 64
_TRIES = 2  # it may have ended, unasked for so long, just when it was asked

Releases = tuple[tuple[float, float, int], ...]


class EpsilonProcess:
    """The process, started when it is asked first, and again when it has ended. Thread safe."""

    def __init__(self, idle_seconds: float = IDLE_SECONDS) -> None:
        # -P: where a node is started, a folder of data and keys, is no place to import from.
        self._command = [sys.executable, "-P", "-m", "p2pfl.node.epsilon_process", repr(idle_seconds)]
        self._process: subprocess.Popen[bytes] | None = None
        self._asking = threading.Lock()
        self._known: dict[str, float] = {}  # two threads may want the same number

    def pld(self, releases: Releases, delta: float, interval: float) -> float:
        """As :func:`p2pfl.node.epsilons.pld`. Raises PrivacyError if the process cannot do it."""
        return self._ask(["pld", releases, delta, interval])

    def rdp(self, releases: Releases, delta: float) -> float:
        """As :func:`p2pfl.node.epsilons.rdp`. Raises PrivacyError if the process cannot do it."""
        return self._ask(["rdp", releases, delta])

    def close(self) -> None:
        """End the process, if there is one; the next question starts another."""
        with self._asking:
            self._end()

    def _ask(self, terms: list[object]) -> float:
        question = json.dumps(terms)
        with self._asking:
            if question in self._known:
                return self._known[question]
            for _ in range(_TRIES):
                answer = self._answer(question)
                if answer:
                    self._known = dict([*self._known.items(), (question, float(answer))][-_MOST_KNOWN:])
                    return self._known[question]
                status = self._end()
        hint = "look above for what it said; it needs some 200 MB of memory of its own"
        raise PrivacyError(f"epsilon cannot be computed: its process ended with status {status}", hint)

    def _answer(self, question: str) -> bytes:
        """Empty if the process has ended."""
        if self._process is None:
            # In a session of its own: Ctrl-C is for the node, which may still have questions.
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(f"{question}\n".encode())
        except BrokenPipeError:
            return b""
        return self._process.stdout.readline()

    def _end(self) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        process.kill()
        with process:
            pass
        return process.returncode


def serve(idle_seconds: float) -> None:
    """Answer until standard input ends, or for ``idle_seconds`` nobody asks."""
    os.nice(_NICE)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # the node was killed while it waited: nobody to tell
    with uncollected():
        from p2pfl.node import epsilons
    while select.select([sys.stdin], [], [], idle_seconds)[0]:
        line = sys.stdin.readline()
        if not line:
            return
        kind, releases, *terms = json.loads(line)
        compute: Callable[..., float] = epsilons.pld if kind == "pld" else epsilons.rdp
        print(repr(compute(tuple(map(tuple, releases)), *terms)), flush=True)  # noqa: T201 - the answer


if __name__ == "__main__":
    serve(float(sys.argv[1]))
