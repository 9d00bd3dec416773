"""Free TCP ports of this machine."""

from __future__ import annotations

import random
import socket
from collections import deque
from pathlib import Path

# Below it are the ports of well-known services, above it those the kernel gives to connections: a
# server that is restarted must not find its port taken by somebody's outgoing connection.
_LOWEST = 10_000
_EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_TRIES_MAX = 200

# Between the choice of a port and the server's first breath there are seconds, in which nobody
# listens there: the chooser keeps a name beside it, which the kernel gives to one process only and
# takes back when it dies. The oldest is let go when so many newer ones were chosen: by then its
# server listens.
_CLAIMS_MAX = 256
_claims: deque[tuple[int, socket.socket]] = deque()


def free_port(preferred: int = 0, host: str = "127.0.0.1") -> int:
    """Return `preferred` if nobody listens there, else a random free port.

    No two calls return one port, in whatever processes of this machine, unless `preferred` asks for
    it again: not before `_CLAIMS_MAX` calls later.
    """
    if preferred and is_free(preferred, host) and (_is_ours(preferred) or _claim(preferred)):
        return preferred
    for _ in range(_TRIES_MAX):
        port = random.randint(_LOWEST, _highest())
        if is_free(port, host) and _claim(port):
            return port
    with socket.socket() as any_port:
        any_port.bind((host, 0))
        return int(any_port.getsockname()[1])


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Tell whether a server could listen there now; one that shares its port counts as there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # As servers do: connections of a former server that linger do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def _is_ours(port: int) -> bool:
    return any(port == claimed for claimed, _ in _claims)


def _claim(port: int) -> bool:
    """Take the name that stands for this port; False if this process or another has it."""
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        claim.bind(f"\0tidegate-port-{port}")
    except OSError:
        claim.close()
        return False
    if len(_claims) >= _CLAIMS_MAX:
        _claims.popleft()[1].close()
    _claims.append((port, claim))
    return True


def _highest() -> int:
    try:
        first_ephemeral = int(_EPHEMERAL_RANGE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        first_ephemeral = 32_768
    return max(first_ephemeral - 1, _LOWEST + 1_000)
