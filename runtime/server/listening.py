"""Sockets that several processes can listen on."""

from __future__ import annotations

import socket
import sys

LISTEN = b"listen"  # from a supervisor to a worker that has loaded the models


def bind(host: str, port: int, *, shared: bool = True) -> list[socket.socket]:
    """Return a socket for each address of ``host``.

    If it is ``shared``, other processes of this user may listen there, too: the kernel deals out the connections.
    """
    sockets: list[socket.socket] = []
    for family, kind, protocol, _, address in socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    ):
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sys.platform != "win32":  # the supervisor refuses workers there
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shared))
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((address[0], port, *address[2:]))
        port = bound.getsockname()[1]  # one for all, if any free one was asked for
        sockets.append(bound)
    return sockets
