"""What a task of one's own is written with: see "Your own model and data" in docs/tasks.md."""

from p2pfl.node.training.plugins import Task

__all__ = ["Task"]
