"""What can be wrong with a topology that a person asked for."""


class TopologyError(ValueError):
    """This topology, file, mixing scheme or parameter cannot be used; the message says why and what to do."""


class CodeError(TopologyError):
    """Code of the person's own failed; the message says what it raised, and in which line."""
