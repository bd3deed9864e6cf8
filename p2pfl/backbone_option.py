"""The option ``--backbone`` of commands that apply a node's model."""

import argparse


def add_backbone(parser: argparse.ArgumentParser) -> None:
    """Let the frozen layers be named here too, for a node may have got them as its own option."""
    text = "the frozen layers, if the manifest names any (default: model.backbone of the config)"
    parser.add_argument("--backbone", metavar="FILE", help=text)
