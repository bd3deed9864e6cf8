"""For organisations that keep their own training loop: three calls that take part in a federation.

The loop is a process of its own, in any framework. It talks to the organisation's own `p2pfl node`, which
does everything else, and which alone talks to others::

    with Federation("hospital") as federation:
        for model in federation:                 # named float32 arrays; ends when the federation does
            federation.send(trained(model))

The manifest's task is of kind "outside" (docs/tasks.md).
"""

import os
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from p2pfl.gossip.manifest import MAX_PARAMETERS
from p2pfl.node.config import load_config
from p2pfl.node.errors import UserError
from p2pfl.node.monitoring.status import read_status
from p2pfl.node.training.handover import SOCKET, Header, address_in, read_frame, send_frame

__all__ = ["Federation"]

Model = dict[str, NDArray[np.float32]]
Evaluate = Callable[[Model], tuple[float, float, float]]
_AGAIN_SECONDS: Final = 0.1


class Federation:
    """The federation as one organisation's training loop sees it, through the node in ``directory``.

    ``directory``: where the node's `node.toml` is, or its state directory. ``evaluate(model)`` gives, of
    records that are kept aside: how many are right, how many there are, and the sum of their losses, of which
    a record adds at most 1; it is called by :meth:`receive` when the federation evaluates a model. Without it
    this organisation has no part in evaluations.

    Attributes: ``round``, of the model received last; ``model``, that model, after the end the last of all;
    ``rounds`` of training that there are; ``seconds`` within which a model must be sent; ``mode`` of
    privacy; ``arguments`` that the members agreed on, by name; ``shapes`` of the arrays, by name; ``kept``,
    what part of the last update went into the sum, below 1 where it was clipped.
    """

    def __init__(
        self, directory: str | os.PathLike[str], evaluate: Evaluate | None = None, wait: float = 120.0
    ) -> None:
        """Connect, for up to ``wait`` seconds. Raises ConnectionError if no node is there, or it has no use
        for a training loop; UserError if its config cannot be read.
        """
        self._state = _state_of(Path(directory))
        self._evaluate = evaluate
        self._socket = _connected(self._state, wait)
        self.round, self.kept, self.model = -1, 1.0, Model()
        welcome = self._asked({"kind": "hello"})[0]
        self._read(welcome)

    def _read(self, welcome: Mapping[str, Any]) -> None:
        self.shapes = {name: tuple(shape) for name, shape in welcome["tensors"]}
        self.mode: str = welcome["mode"]
        self.rounds: int = welcome["rounds"]
        self.seconds = float(welcome["seconds"])
        self.arguments: dict[str, int | float | str] = {
            one["name"]: float(one["value"]) if one["kind"] == "number" else one["value"]
            for one in welcome["arguments"]
        }

    # -- the three calls
    def receive(self) -> Model | None:
        """The model to train next, by names; waits for it. None when the federation has ended, and
        :attr:`model` is then the last one. What was received before and never sent counts as not trained.

        Raises ConnectionError if the node stops before, or another training loop has taken this one's place.
        """
        while True:
            try:
                header, payload = self._asked({"kind": "next"})
            except OSError:
                if self._over():
                    return None
                raise
            if payload:
                self.model = self._named(payload)
            if header["kind"] == "end":
                return None
            self.round = int(str(header["round"]))
            if header["kind"] == "train":
                return {name: array.copy() for name, array in self.model.items()}
            sums = self._evaluate(self.model) if self._evaluate is not None else ()
            self._require_taken({"kind": "measured"}, struct.pack(f"<{len(sums)}d", *sums))

    def send(self, model: Mapping[str, ArrayLike]) -> bool:
        """Hand over ``model``, trained from the one that was received; False if that came too late, and the
        round went on without.

        Raises ValueError, which says what is wrong, if it is not the arrays that the manifest declares, all
        finite; then another one may be sent. TypeError for what is no mapping at all. ConnectionError as
        :meth:`receive` does.
        """
        given: object = model  # what a function that forgot to return gives, too
        if not isinstance(given, Mapping):
            expected = "send() takes arrays by name, as receive() gives them"
            raise TypeError(f"{expected}, not {type(model).__name__}")
        payload = b"".join(self._checked(model, name, shape) for name, shape in self.shapes.items())
        unknown = sorted(set(model) - set(self.shapes))
        if unknown:
            raise ValueError(f"{unknown[0]}: no such array is declared in the manifest")
        return self._require_taken({"kind": "trained"}, payload)

    def close(self) -> None:
        """Leave; the node goes on without."""
        self._socket.close()

    def __iter__(self) -> Iterator[Model]:
        """Every model that :meth:`receive` gives, to the end."""
        while (model := self.receive()) is not None:
            yield model

    def __enter__(self) -> "Federation":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- the socket
    def _asked(self, header: Header, payload: bytes = b"") -> tuple[Header, bytearray]:
        try:
            send_frame(self._socket, header, payload)
            return read_frame(self._socket, 4 * MAX_PARAMETERS)
        except OSError as error:
            what = f"the node in {self._state} has stopped, or another training loop has taken over"
            raise ConnectionError(f"{what} ({error})") from error

    def _require_taken(self, header: Header, payload: bytes) -> bool:
        reply, _ = self._asked(header, payload)
        if reply["kind"] == "refused":
            raise ValueError(str(reply["reason"]))
        if reply["kind"] == "taken":
            self.kept = float(str(reply["kept"]))
        return reply["kind"] == "taken"

    def _named(self, payload: bytearray) -> Model:
        values, found, at = np.frombuffer(payload, "<f4"), Model(), 0
        for name, shape in self.shapes.items():
            size = int(np.prod(shape))
            found[name] = values[at : at + size].reshape(shape)
            at += size
        return found

    @staticmethod
    def _checked(model: Mapping[str, ArrayLike], name: str, shape: tuple[int, ...]) -> bytes:
        if name not in model:
            raise ValueError(f"{name}: missing; send every array that was received")
        array = _reals(model[name], name)
        if array.shape != shape:
            raise ValueError(f"{name}: the shape is {array.shape}, the manifest declares {shape}")
        return array.tobytes()

    def _over(self) -> bool:
        """Whether the node said, before it went, that the programme is over."""
        try:
            return read_status(self._state).phase == "done"
        except UserError:
            return False


def _reals(given: ArrayLike, name: str) -> NDArray[np.float32]:
    try:
        array = np.asarray(given)
        if not np.iscomplexobj(array):
            return array.astype("<f4")
    except (TypeError, ValueError, RuntimeError) as error:  # the last is how torch refuses
        raise ValueError(f"{name}: no array of numbers ({error})") from None
    raise ValueError(f"{name}: an array of complex numbers; send real ones")


def _state_of(directory: Path) -> Path:
    config = directory if directory.is_file() else directory / "node.toml"
    return load_config(config, os.environ, {}).state if config.is_file() else directory


def _connected(state: Path, wait: float) -> socket.socket:
    deadline = time.monotonic() + wait
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with address_in(state) as address:
                connection.connect(address)
            return connection
        except OSError as error:
            connection.close()
            if time.monotonic() >= deadline:
                hint = 'is `p2pfl node` running there, in a federation whose task is of kind "outside"?'
                raise ConnectionError(f"nothing at {state / SOCKET} ({error}); {hint}") from None
        time.sleep(_AGAIN_SECONDS)
