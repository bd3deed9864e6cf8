"""What a daemon learns with: its own records, the ledger that it goes on from, and the system's randomness.

It stands apart from the daemon so that tests hold it: a ledger forgotten at a restart, or numbers that can be
foreseen, would break the promise without a sound.
"""

import logging
from pathlib import Path

from p2pfl.crypto.randomness import system_random
from p2pfl.gossip.manifest import Manifest, OutsideTask, PrivacySpec
from p2pfl.node.learner import Learner
from p2pfl.node.privacy import Budget
from p2pfl.node.start import Records
from p2pfl.node.storage.store import Store
from p2pfl.node.training.trainer import Trainer

log = logging.getLogger(__name__)


def trainer_of(manifest: Manifest, records: Records, directory: Path) -> Trainer:
    """What trains on ``records``; where the task is the owner's training loop, what asks that, in the state
    ``directory``. Says in the log what was read, and what is doubtful about it.
    """
    if isinstance(manifest.task, OutsideTask):
        from p2pfl.node.training.outside import OutsideTrainer

        return OutsideTrainer(manifest, directory, system_random)
    train = records.train
    log.info("%s; %d %s left out", records.said, train.dropped, manifest.task.left_out)
    if records.doubt:
        log.warning("%s", records.doubt)
    warn_of_delta(manifest.privacy, len(train))
    if train.has_one_label:
        log.warning("every record has the same label: check the data against the manifest's task")
    return Trainer(manifest, train, records.test, system_random, records.backbone, records.initial)


def learner_of(manifest: Manifest, trainer: Trainer, store: Store) -> tuple[Learner, Budget]:
    """The learner that goes on where ``store`` ends, and what it may still release."""
    budget = Budget(manifest.privacy, store.mechanisms())
    return Learner(manifest, trainer, store, budget, system_random), budget


def warn_of_delta(privacy: PrivacySpec, records: int) -> None:
    """Say so if delta allows what no epsilon makes up for: one of this node's ``records`` shown whole."""
    if privacy.mode in ("distributed", "local") and privacy.delta * records >= 1:
        log.warning(
            "privacy.delta %g is no less than one in %d, the number of records here: epsilon may hold while a"
            " whole record is given away; found a federation with a far smaller delta",
            privacy.delta,
            records,
        )
