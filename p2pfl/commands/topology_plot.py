"""``p2pfl topology plot``: topologies drawn."""

import argparse
import json

from p2pfl.node.errors import UsageError
from p2pfl.topology_options import add_topology, asked, explained

_TINY = 2.4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``p2pfl topology plot``."""
    parser.description = (
        "Draw topologies, several side by side: who may meet whom, of one that changes in a round; groups, or"
        " regions where they are known, by colour."
    )
    parser.add_argument("picture", metavar="PICTURE", help="the file to draw: .svg or .png")
    add_topology(parser, several=True)
    parser.add_argument("--round", metavar="T", type=int, default=0, help="which one to draw (default: 0)")
    parser.add_argument("--json", action="store_true", help="print what was drawn, and where")


def run(options: argparse.Namespace) -> int:
    """Draw the picture."""
    from p2pfl.drawing import Drawing
    from p2pfl.figures import literal, panels, picture, save, styled

    path = picture(options.picture)
    if not 0 <= options.round < 1 << 32:
        raise UsageError(f"--round {options.round}: must be from 0 to 2^32 - 1", "the first round is 0")
    with explained(options), styled():
        found = asked(options)
        one = len(found) == 1
        drawings = [Drawing(each.topology, each.below, each.seed, options.round) for each in found]
        side = 5.0 if one else _TINY
        axes = panels(len(found), width=side, height=side + 0.1, columns=1 if one else 5)
        for own, drawing in zip(axes, drawings, strict=True):
            drawing.draw(own, names=one)
            own.set_title(literal(drawing.topology.name), fontsize=10 if one else 8)
        if one and axes[0].get_legend_handles_labels()[0]:
            axes[0].legend(loc="upper left", bbox_to_anchor=(1, 1))
        save(axes[0], path)
    if options.json:
        print(json.dumps([drawing.row() for drawing in drawings], indent=1))
    return 0
