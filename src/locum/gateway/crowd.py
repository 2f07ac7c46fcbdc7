"""``Crowd``: who is connected, so that no number of connections keeps anybody else out.

Notable: at a limit, of all connections or of one client's, the one that has been quiet for the longest makes room.
Where every one of them waits for an answer, the newcomer gets a place among the last few, where only ``/health`` and
``/ready`` are answered. Not here: bytes and deadlines (``wire``).
"""

from __future__ import annotations

import ipaddress
from typing import Protocol


class Connection(Protocol):
    """What is counted."""

    @property
    def quiet_since_s(self) -> float | None:
        """Since when no request has been answered on it, on the loop's clock; None while one is."""
        ...

    def drop(self) -> None:
        """Close it at once."""
        ...


class Crowd:
    """Counts connections by client; used by the event loop alone.

    Args:
        most: connections in all.
        most_of_one: connections of one client.
        spare: connections beyond ``most`` whose requests are not answered, but for the health of the process.
    """

    def __init__(self, most: int, most_of_one: int, spare: int) -> None:
        self._most = most
        self._most_of_one = most_of_one
        self._spare = spare
        self._clients: dict[str, dict[Connection, None]] = {}
        self._count = 0

    def enter(self, connection: Connection, address: str) -> bool | None:
        """Count a newcomer, and close another connection where that makes room.

        Args:
            connection: the newcomer.
            address: of the client, as the socket tells it.

        Returns:
            Whether its requests are to be answered; None when there is no place at all and it is to be closed.
        """
        client = client_of(address)
        mine = self._clients.get(client, {})
        answered = True
        if len(mine) >= self._most_of_one:
            answered = self._make_room(mine)
        elif self._count >= self._most:
            answered = self._make_room(max(self._clients.values(), key=len)) or self._make_room(self._everybody())
        if not answered and self._count >= self._most + self._spare:
            return None
        self._clients.setdefault(client, {})[connection] = None
        self._count += 1
        return answered

    def leave(self, connection: Connection, address: str) -> None:
        """Count it no more; a second call does nothing."""
        client = client_of(address)
        mine = self._clients.get(client, {})
        if connection in mine:
            del mine[connection]
            self._count -= 1
            if not mine:
                del self._clients[client]

    def _everybody(self) -> dict[Connection, None]:
        return {connection: None for mine in self._clients.values() for connection in mine}

    @staticmethod
    def _make_room(among: dict[Connection, None]) -> bool:
        """Close the one that has been quiet for the longest; whether there was one."""
        quiet = [(since, place, each) for place, each in enumerate(among) if (since := each.quiet_since_s) is not None]
        if not quiet:
            return False
        min(quiet, key=lambda found: found[:2])[2].drop()
        return True


def client_of(address: str) -> str:
    """What counts as one client: an IPv4 address, or the 64 bits of an IPv6 network, whose addresses cost nothing."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:  # a socket of this machine, or one that is closed already
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, 64), strict=False))
