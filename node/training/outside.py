"""A trainer for those who keep their own training loop: it asks that loop, over the node's own socket.

What the loop does is its owner's; what leaves the node is bounded here. In mode organisation the whole
update is clipped, and noised like any other, so what is promised does not depend on the loop. A loop that is
late, dies, or sends what is no model costs this node one round of training, and nobody anything else.
"""

import logging
import math
import struct
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from p2pfl.crypto.randomness import RandomBytes
from p2pfl.gossip.manifest import Manifest, OutsideModel, OutsideTask
from p2pfl.node.privacy import LOSS_CAP, MAX_RECORDS
from p2pfl.node.training.handover import Header
from p2pfl.node.training.loop_socket import LoopSocket
from p2pfl.node.training.metrics import Evaluation
from p2pfl.node.training.table import Table
from p2pfl.node.training.trainer import Trainer

log = logging.getLogger(__name__)

PART_OF_READY: Final = 0.75
"""Of ``timing.ready_seconds``: how long a loop may take while the others of its group still wait for us."""
_SUMS: Final = struct.Struct("<3d")
_ORGANISATION: Final = Table(np.zeros((1, 0)), np.zeros(1))
"""Stands for all its records, of which this node sees none."""

Vector = NDArray[np.float64]


class OutsideTrainer(Trainer):
    """Hands the model to the organisation's own training loop, and takes what comes back in time."""

    def __init__(self, manifest: Manifest, directory: Path, random: RandomBytes) -> None:
        """Listen in ``directory``. Raises StorageError if that is not possible."""
        super().__init__(manifest, _ORGANISATION, None, random)
        self._seconds = PART_OF_READY * manifest.timing.ready_seconds
        self._measured: tuple[Vector, Evaluation] | None = None
        most = 4 * self.model.dimension
        self._loop = LoopSocket(directory, _welcome(manifest, self._seconds), max(most, _SUMS.size))

    def contribution(self, parameters: Vector, statistics: Vector, *, train: bool = True) -> Vector:
        """``parameters`` as the training loop has changed them; as they are if it has not in time."""
        self.left_out, self.learnt_private = 0, None
        if not train:
            return parameters.copy()
        handed, found = parameters.astype(np.float32), parameters.copy()

        def judge(header: Header, payload: bytearray) -> Header:
            if header["kind"] != "trained":
                raise ValueError("a trained model was asked for")
            # The difference, so that what the loop has left alone stays what it is beyond float32.
            update = self._model_in(payload).astype(np.float64) - handed
            norm, limit = float(np.linalg.norm(update)), self._manifest.privacy.clip_norm
            bounded = self._by_organisation and norm > limit
            end = parameters + update
            found[:] = self._clipped_update(parameters, end) if self._by_organisation else end
            return {"kind": "taken", "kept": repr(limit / norm if bounded else 1.0)}

        missing = self._loop.ask(self._header("train"), handed.tobytes(), self._seconds, judge)
        if missing:
            log.warning("round %d: no training here: %s", self.round, missing)
        self.idle = missing
        return found

    def evaluation(self, parameters: Vector, statistics: Vector) -> Vector:
        """What the training loop measured on records that it has kept aside; zeros without an answer."""
        sums = np.zeros(3)

        def judge(header: Header, payload: bytearray) -> Header:
            if header["kind"] != "measured":
                raise ValueError("a measurement was asked for")
            said = _sums_in(payload)
            sums[:] = _possible(*said)
            if not np.array_equal(sums, said):
                log.warning("round %d: the training loop measured what no records add up to: cut", self.round)
            return {"kind": "taken", "kept": "1.0"}

        payload = parameters.astype("<f4").tobytes()
        missing = self._loop.ask(self._header("measure"), payload, self._seconds, judge)
        if missing:
            log.warning("round %d: no evaluation here: %s", self.round, missing)
        self._measured = parameters.copy(), Evaluation.of(self._manifest, sums)
        return sums / sums[1] if self._by_organisation and sums[1] else sums

    def evaluate(self, parameters: Vector, statistics: Vector, table: Table | None = None) -> Evaluation:
        """What the loop said of these ``parameters`` when it was asked last; all zero if it was not."""
        if table is not None:
            self.objective.predicted(parameters)  # refuses, and says why
        if self._measured is None or not np.array_equal(self._measured[0], parameters):
            return Evaluation.of(self._manifest, np.zeros(3))
        return self._measured[1]

    def end(self, parameters: Vector | None) -> None:
        """The programme is over: tell the loop, and hand it the last model, if there is one."""
        payload = b"" if parameters is None else parameters.astype("<f4").tobytes()
        self._loop.end(self._header("end"), payload)

    def close(self) -> None:
        """Stop listening; whoever waits for the loop goes on without."""
        self._loop.close()

    def _header(self, kind: str) -> Header:
        return {"kind": kind, "round": self.round}

    def _model_in(self, payload: bytearray) -> NDArray[np.float32]:
        """Raises ValueError unless it is one, and finite."""
        if len(payload) != 4 * self.model.dimension:
            raise ValueError(f"{len(payload)} bytes are no model of {self.model.dimension} float32")
        values = np.frombuffer(payload, "<f4")
        for slot in self.model.layout:
            wrong = int((~np.isfinite(values[slot.start : slot.stop])).sum())
            if wrong:
                raise ValueError(f"{wrong} values of {slot.name} are not finite")
        return values


def _sums_in(payload: bytearray) -> tuple[float, float, float]:
    """(correct, total, loss), zeros for none. Raises ValueError for any other number of numbers."""
    if not payload:
        return 0.0, 0.0, 0.0
    if len(payload) != _SUMS.size:
        raise ValueError("an evaluation is three numbers: correct, total, loss")
    correct, total, loss = _SUMS.unpack(payload)
    return correct, total, loss


def _possible(correct: float, total: float, loss: float) -> tuple[float, float, float]:
    """The nearest that records can add up to; nan as the worst: none right, no records, all the loss."""
    total = _cut(0.0 if math.isnan(total) else total, MAX_RECORDS)
    right = _cut(0.0 if math.isnan(correct) else correct, total)
    return right, total, _cut(math.inf if math.isnan(loss) else loss, LOSS_CAP * total)


def _cut(value: float, most: float) -> float:
    return min(max(value, 0.0), most)


def _welcome(manifest: Manifest, seconds: float) -> Header:
    task, model = manifest.task, manifest.model
    assert isinstance(task, OutsideTask)
    assert isinstance(model, OutsideModel)
    arguments = [
        {"name": one.name, "kind": one.kind, "value": repr(one.value) if one.kind == "number" else one.value}
        for one in task.arguments
    ]
    return {
        "kind": "welcome",
        "federation": manifest.federation_id,
        "mode": manifest.privacy.mode,
        "rounds": manifest.training.rounds,
        "seconds": repr(seconds),
        "arguments": arguments,
        "tensors": [[tensor.name, list(tensor.shape)] for tensor in model.tensors],
    }
