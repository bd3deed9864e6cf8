"""What accuracy is measured against: that of an answer that looks at nothing."""

import numpy as np

from p2pfl.gossip.manifest import TabularTask, TaskSpec
from p2pfl.gossip.own_spec import OutsideTask, PluginTask
from p2pfl.node.training.text import PADDING
from p2pfl.simulation.sources import Dealt


def baseline(task: TaskSpec, dealt: Dealt) -> float | None:
    """The accuracy on the test records of always answering the commonest class of the training records; for
    numbers their mean, for text the commonest character. None for tasks of one's own.
    """
    if isinstance(task, PluginTask | OutsideTask):
        return None
    learnt, test = np.concatenate([table.labels for table in dealt.train]), dealt.test.labels
    if isinstance(task, TabularTask) and task.is_regression:
        return float(np.mean(1 - np.abs(test - learnt.mean()) / 2))
    values, counts = np.unique(learnt[learnt != PADDING], return_counts=True)
    right = test == values[counts.argmax()]
    if test.ndim == 1:
        return float(right.mean())
    return float(np.mean(right.sum(-1) / np.maximum((test != PADDING).sum(-1), 1)))
