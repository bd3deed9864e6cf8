"""What goes wrong at an operator's hands, and the exit status each kind ends in.

Code anywhere in the node raises a :class:`UserError`; ``p2pfl.cli.main`` is the only place that catches it
and prints ``p2pfl: error: <what>`` and ``p2pfl: hint: <hint>``. Messages are lower case, name the field or
the file, carry no secret and end without a full stop. An exception that is not a UserError is a bug and ends
in status 1 with a traceback.
"""

from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """Exit statuses of the ``p2pfl`` command; docs/exit-codes.md is checked against this table."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> "ExitCode":
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    OK = 0, "everything asked for was done"
    BUG = 1, "unexpected error: a bug in p2pfl, please report it with the traceback"
    USAGE = 2, "the command line is wrong"
    CONFIG = 3, "the node's configuration is missing, unreadable or wrong"
    IDENTITY = 4, "the identity file is missing, damaged, readable by others or already there"
    FEDERATION = 5, "the manifest is missing, wrong, contradictory or another federation's"
    TICKET = 6, "the ticket is missing, altered, expired or for someone else"
    DATA = 7, "a data file is missing, or a column, cell or row is not what the manifest declares"
    NETWORK = 8, "an address cannot be listened on or reached, or no member would let this node in"
    STORAGE = 9, "the disk is full, or the node's state cannot be read, written or trusted"
    PRIVACY = 10, "the privacy terms cannot be met"
    PROTOCOL = 11, "the federation did not do what its manifest says in time"
    CLOCK = 12, "this machine's clock is too far from everyone else's"
    INTERRUPTED = 130, "interrupted from the keyboard, or whoever read the output went away"


def reason_of(error: OSError) -> str:
    """Why the operating system refused, in the lower case of our messages."""
    return (error.strerror or str(error)).lower()


class UserError(Exception):
    """Something the operator can put right.

    ``what`` says what is wrong and where, ``hint`` what to do about it.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.USAGE

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        """So that it crosses to another process, whatever arguments a subclass takes."""
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[UserError], arguments: tuple[object, ...], held: dict[str, object]) -> UserError:
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(held)
    return error


class UsageError(UserError):
    """The options given contradict each other, or one is malformed."""


class ConfigError(UserError):
    """``field`` (``section.key``, or the file itself) of the node's configuration is wrong."""

    exit_code = ExitCode.CONFIG

    def __init__(self, field: str, reason: str, hint: str) -> None:
        super().__init__(f"{field}: {reason}", hint)
        self.field = field


class IdentityError(UserError):
    """The identity file cannot be used."""

    exit_code = ExitCode.IDENTITY


class ManifestProblem(UserError):  # noqa: N818 - what an operator has, beside what is thrown inside
    """The manifest cannot be used here.

    (What is wrong inside one is ``p2pfl.gossip.manifest.ManifestError``.)
    """

    exit_code = ExitCode.FEDERATION


class TicketProblem(UserError):  # noqa: N818
    """The ticket cannot be used here. (Why one does not verify is ``p2pfl.gossip.tickets.TicketError``.)"""

    exit_code = ExitCode.TICKET


class DataError(UserError):
    """A data file does not hold what the manifest declares."""

    exit_code = ExitCode.DATA


class NetworkError(UserError):
    """Listening or joining failed."""

    exit_code = ExitCode.NETWORK


class StorageError(UserError):
    """State on disk cannot be read, written or trusted."""

    exit_code = ExitCode.STORAGE


class PrivacyError(UserError):
    """The privacy terms cannot be met, or the budget does not allow what was asked."""

    exit_code = ExitCode.PRIVACY


class FederationError(UserError):
    """The other members did not do their part within the manifest's deadlines."""

    exit_code = ExitCode.PROTOCOL


class ClockError(UserError):
    """This machine's clock disagrees with its peers'."""

    exit_code = ExitCode.CLOCK
