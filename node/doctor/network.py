"""What can be said of the network without any member: names, and ports."""

import os
import re
import socket
from collections.abc import Mapping
from typing import Final

import trio

from p2pfl.node.config import Endpoint, NodeConfig
from p2pfl.node.doctor.findings import Finding, failure, ok, skipped, warning
from p2pfl.node.doctor.known import Known
from p2pfl.node.errors import ExitCode
from p2pfl.node.transport.address import listen_problem

NAME_SECONDS: Final = 3.0
_NAMED = re.compile(r"/(dns|dns4|dns6)/([^/]+)/tcp/")
_LISTENED = re.compile(r"/ip[46]/([^/]+)/tcp/([0-9]+)")
_FAMILIES = {"dns": socket.AF_UNSPEC, "dns4": socket.AF_INET, "dns6": socket.AF_INET6}


def names(config: NodeConfig) -> Finding:
    """Whether the names in the config lead anywhere."""
    places = {
        "network.announce": config.announce,
        "network.bootstrap": config.bootstrap,
        "network.rendezvous": config.rendezvous,
    }
    wanted = {
        (match[1], match[2]): place
        for place, addresses in places.items()
        for address in addresses
        if (match := _NAMED.match(address))
    }
    if not wanted:
        return skipped("dns", "the config has no names, only numbers")
    lost = trio.run(_unresolved, wanted)
    if not lost:
        return ok("dns", f"{', '.join(name for _, name in wanted)} resolved")
    said = "; ".join(
        f"{place}: {name}: {lost[kind, name]}"
        for (kind, name), place in wanted.items()
        if (kind, name) in lost
    )
    hint = "check the name and this machine's resolver (`getent hosts NAME`)"
    if len(lost) == len(wanted) or any(wanted[name] == "network.announce" for name in lost):
        return failure("dns", said, hint, ExitCode.NETWORK)
    return warning("dns", said, hint)


async def _unresolved(wanted: Mapping[tuple[str, str], str]) -> Mapping[tuple[str, str], str]:
    lost = dict.fromkeys(wanted, f"no answer within {NAME_SECONDS:g} s")

    async def resolve(kind: str, name: str) -> None:
        try:
            await trio.socket.getaddrinfo(name, None, _FAMILIES[kind], socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            lost[kind, name] = str(getattr(error, "strerror", None) or error).lower()
        else:
            del lost[kind, name]

    with trio.move_on_after(NAME_SECONDS):
        async with trio.open_nursery() as nursery:
            for kind, name in wanted:
                nursery.start_soon(resolve, kind, name)
    return lost


def ports(known: Known) -> Finding:
    """Whether the node can listen where the config says, or does."""
    config = known.config
    if known.running:
        return ok("port", f"held by the running node: {', '.join(config.listen)}")
    for address in config.listen:
        match = _LISTENED.match(address)
        assert match is not None
        error = _bound(match[1], int(match[2]))
        if error is not None:
            problem = listen_problem(address, error)
            return failure("port", problem.what, problem.hint, ExitCode.NETWORK)
    status = config.status_listen
    if status is not None and (error := _bound(status.host, status.port)) is not None:
        problem = listen_problem(_multiaddr(status), error)
        return failure("port", f"status.listen: {problem.what}", problem.hint, ExitCode.NETWORK)
    return ok("port", f"free: {', '.join(config.listen)}")


def _bound(host: str, port: int) -> OSError | None:
    """Why nobody can listen there now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        number = error.errno or 0
        return OSError(number, os.strerror(number))  # without what Python adds to it
    return None


def _multiaddr(endpoint: Endpoint) -> str:
    return f"/ip{6 if ':' in endpoint.host else 4}/{endpoint.host}/tcp/{endpoint.port}"
