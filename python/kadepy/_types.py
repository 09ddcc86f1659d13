"""KadePy's errors and values, which Python code defines and the core makes; nothing that acts."""

from collections import namedtuple

__all__ = [
    "BootstrapError",
    "ClosedError",
    "KadepyError",
    "Node",
    "Peer",
    "RequestTimeout",
    "Stats",
]


class KadepyError(Exception):
    """The root of every error that is KadePy's own."""


class RequestTimeout(KadepyError, TimeoutError):
    """A node did not answer in time."""


class BootstrapError(KadepyError, ConnectionError):
    """None of the bootstrap contacts answered; the message names each one and why."""


class ClosedError(KadepyError, RuntimeError):
    """The node is closed, or belongs to the parent process of a fork, or there is none."""


class Peer(namedtuple("Peer", ["ip", "port"])):
    """Who announced a topic: where to connect to.

    A named tuple, so that ``sock.connect(peer)`` works.

    >>> Peer("192.0.2.1", 4000).port
    4000
    """

    __slots__ = ()
    ip: str
    port: int


class Node(namedtuple("Node", ["id", "ip", "port"])):
    """A node of the network: its 32-byte id and its address."""

    __slots__ = ()
    id: bytes
    ip: str
    port: int

    def __repr__(self) -> str:
        """The id as hex, cut: enough to tell two nodes apart."""
        return f"Node(id={self.id[:4].hex()}…, ip={self.ip!r}, port={self.port})"


_STATS = [
    "packets_in",
    "packets_out",
    "bytes_in",
    "bytes_out",
    "dropped",
    "requests",
    "timeouts",
    "rtt",
    "lookups",
    "lookups_active",
    "contacts",
    "topics",
    "records",
    "callback_queue",
    "callback_dropped",
    "callback_errors",
    "uptime",
]


class Stats(namedtuple("Stats", _STATS)):
    """What a node did so far and holds now: a snapshot that does not change."""

    __slots__ = ()
    packets_in: dict[str, int]
    """Packets that decoded, by type name."""
    packets_out: dict[str, int]
    """Packets handed to the socket, by type name."""
    bytes_in: int
    """Bytes of every datagram that came in."""
    bytes_out: int
    """Bytes of every datagram handed to the socket."""
    dropped: dict[str, int]
    """What was not served or not sent, by reason."""
    requests: int
    """Requests sent."""
    timeouts: int
    """Requests that no answer came to in time."""
    rtt: float | None
    """The smoothed round trip in seconds; None before the first answer."""
    lookups: int
    """Lookups begun, the node's own refreshes included."""
    lookups_active: int
    """Lookups under way."""
    contacts: int
    """Contacts in the routing table."""
    topics: int
    """Topics that this node stores peers of."""
    records: int
    """Peers that this node stores."""
    callback_queue: int
    """Packets that wait for the callback."""
    callback_dropped: int
    """Packets that were dropped because too many waited."""
    callback_errors: int
    """Calls of the callback that raised."""
    uptime: float
    """Seconds since the node was made."""


for _class in (KadepyError, RequestTimeout, BootstrapError, ClosedError, Peer, Node, Stats):
    _class.__module__ = "kadepy"
