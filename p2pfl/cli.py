"""The ``p2pfl`` command: finds the command that was asked for, and is the one place where errors become
messages and exit statuses.

A command is a module of ``p2pfl.commands`` with ``add_arguments(parser)`` and ``run(options) -> int``. Only
the one asked for is imported, and it imports what is heavy (torch, libp2p, numpy) when it runs: ``p2pfl
--help`` answers at once.
"""

import argparse
import errno
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import NoReturn

from p2pfl.node.errors import ExitCode, UsageError, UserError, reason_of
from p2pfl.terminal import complain

DESCRIPTION = "Organisations train one model together, with nobody in the middle."
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
EPILOG = "`p2pfl COMMAND --help` explains a command; exit statuses are in docs/exit-codes.md"


@dataclass(frozen=True, slots=True)
class Command:
    """A command: ``module`` of p2pfl.commands, and the ``help`` that stands beside its name. ``commands``:
    words that make another of it.
    """

    module: str
    help: str
    commands: Mapping[str, "Command"] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Group:
    """A command that only has commands."""

    help: str
    commands: Mapping[str, Command]


COMMANDS: Mapping[str, Command | Group] = {
    "init": Command("init", "make a node's directory: its identity and a config to start from"),
    "federation": Group(
        "define a federation, look at one, admit members and put them out",
        {
            "create": Command("federation_create", "make a manifest from a TOML file"),
            "show": Command("federation_show", "say in words what a manifest agrees on"),
            "invite": Command("federation_invite", "issue a ticket that admits one peer"),
            "revoke": Command("federation_revoke", "state that a peer is no member any more"),
            "deliver": Command("federation_deliver", "hand such a statement to a node, for all members"),
        },
    ),
    "node": Command("node", "run this organisation's node"),
    "rendezvous": Command("rendezvous", "run a place where members leave their addresses for each other"),
    "resume": Command(
        "resume", "go on with a model in another federation, and with what its records have paid"
    ),
    "rotate": Command("rotate", "give a node a new key, in its old place"),
    "backup": Command("backup", "copy what a node needs to go on, while it runs"),
    "status": Command("status", "say what a node is doing, and what its peers did against the protocol"),
    "doctor": Command("doctor", "say what is wrong with a node, or soon will be, and what to do about it"),
    "demo": Command("demo", "run a whole federation on this machine: four hospitals, four nodes, one model"),
    "evaluate": Command("evaluate", "measure the federation's model on a CSV file"),
    "personalise": Command("personalise", "fit the federation's model to this node's own records"),
    "predict": Command("predict", "apply the federation's model to a CSV file"),
    "export": Command("export", "write the federation's model to a file that needs no p2pfl, with its card"),
    "simulate": Command(
        "simulate",
        "try out a federation on this machine: topologies, groups, privacy, failures",
        {"advise": Command("simulate_advise", "recommend what to agree on")},
    ),
    "topology": Group(
        "who averages with whom: what there is, how fast it mixes, who sees what",
        {
            "list": Command("topology_list", "name every topology, with its parameters and its use"),
            "show": Command("topology_show", "give a topology in numbers"),
            "plot": Command("topology_plot", "draw topologies"),
            "audit": Command("topology_audit", "say what curious members learn who pool what they see"),
            "compare": Command("topology_compare", "set topologies side by side"),
        },
    ),
    "privacy": Command("privacy", "epsilon: spent by a node, or what a manifest will cost before it runs"),
}


class _Parser(argparse.ArgumentParser):
    """Errors go the way of all others."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, f"see `{self.prog} --help`")


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from importlib.metadata import version

        print("p2pfl", version("p2pfl-node"))
        parser.exit(0)


def build_parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """The parser for ``arguments``: all commands by name, and the whole of the one that is named there."""
    parser = _Parser(prog="p2pfl", description=DESCRIPTION, epilog=EPILOG, allow_abbrev=False)
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    _add_commands(parser, COMMANDS, arguments)
    return parser


def _add_commands(
    parser: argparse.ArgumentParser, commands: Mapping[str, Command | Group], arguments: Sequence[str]
) -> None:
    added = parser.add_subparsers(metavar="COMMAND", required=True, title="commands", dest="command")
    asked = next(
        (position for position, word in enumerate(arguments) if not word.startswith("-")), len(arguments)
    )
    for word in arguments[asked : asked + 1]:
        if word not in commands:
            from p2pfl.gossip.records import suggest

            raise UsageError(
                f"unknown command {word!r}", f"{suggest(word, commands)}; see `{parser.prog} --help`"
            )
    for name, command in commands.items():
        inner = added.add_parser(
            name, help=command.help, description=_sentence(command.help), allow_abbrev=False
        )
        if name not in arguments[asked : asked + 1]:
            continue
        if isinstance(command, Group) or set(arguments[asked + 1 : asked + 2]) & command.commands.keys():
            _add_commands(inner, command.commands, arguments[asked + 1 :])
        else:
            module = import_module(f"p2pfl.commands.{command.module}")
            module.add_arguments(inner)
            inner.set_defaults(run=module.run, parser=inner)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status. Nothing but SystemExit for ``--help`` comes out of it."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    # Read when numpy is imported, after this. Its matrix products here are small, and a second thread that
    # spins for them takes the processor from its neighbours.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        try:
            return _run(words)
        finally:
            print(end="", flush=True)
    except UserError as error:
        complain(error.what, error.hint)
        return int(error.exit_code)
    except KeyboardInterrupt:
        complain("interrupted", "")
        return int(ExitCode.INTERRUPTED)
    except BrokenPipeError:  # whoever read our output has gone, and knows
        _give_up_output()
        return int(ExitCode.INTERRUPTED)
    except OSError as error:
        if error.errno not in _NO_ROOM or error.filename is not None:
            return _bug(error)
        _give_up_output()
        complain(f"cannot write the output: {reason_of(error)}", "free some space, or send it elsewhere")
        return int(ExitCode.STORAGE)
    except Exception as error:  # noqa: BLE001 - the supervisor: whatever else comes up is a bug, and says so
        return _bug(error)


def _run(words: list[str]) -> int:
    options, unknown = build_parser(words).parse_known_args(words)
    if unknown:
        raise UsageError(
            f"unrecognized arguments: {' '.join(unknown)}", _suggestion(unknown[0], options.parser)
        )
    return int(options.run(options))


def _suggestion(word: str, parser: argparse.ArgumentParser) -> str:
    """What to do about ``word``, which ``parser`` does not know."""
    from p2pfl.gossip.records import suggest

    see = f"see `{parser.prog} --help`"
    options = re.findall(r"--[a-z][a-z-]+", parser.format_usage())
    if word.endswith(".toml") and "--config" in options:
        return f"did you mean --config {word}?; {see}"
    return f"{suggest(word.partition('=')[0], options)}; {see}" if word.startswith("--") else see


def _give_up_output() -> None:
    """Python flushes standard output once more at exit: give what is left of it somewhere to go."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _bug(error: Exception) -> int:
    import traceback

    traceback.print_exception(error)
    complain(
        f"unexpected {type(error).__name__}: this is a bug in p2pfl", "please report it, with the lines above"
    )
    return int(ExitCode.BUG)
