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
    """Who announced a topic: the IP address as a str, and the port.

    A named tuple, so that ``sock.connect(peer)`` works.

    >>> from kadepy import Peer
    >>> Peer("192.0.2.1", 4000).port
    4000
    """

    __slots__ = ()


class Node(namedtuple("Node", ["id", "ip", "port"])):
    """A node of the network: its id (32 bytes), IP address (a str) and port."""

    __slots__ = ()

    def __repr__(self):
        """The id as hex, cut: enough to tell two nodes apart."""
        short = f"{self.id[:4].hex()}..." if isinstance(self.id, bytes) else repr(self.id)
        return f"Node(id={short}, ip={self.ip!r}, port={self.port!r})"


class Stats(
    namedtuple(
        "Stats",
        [
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
        ],
    )
):
    """What a node did so far and holds now: a snapshot that does not change.

    Attributes:
        packets_in: packets that decoded, by type name.
        packets_out: packets handed to the socket, by type name.
        bytes_in: bytes of every datagram that came in.
        bytes_out: bytes of every datagram handed to the socket.
        dropped: what was not served or not sent, by reason: "short", "oversize", "unopened" (not
            under a network key of this node), "unknown_type", "malformed", "sender_id", "source"
            and "unsolicited" packets; announces refused for their "token" or a "storage" cap;
            senders that were not asked since too many "candidates" wait; own requests and calls
            beyond a cap ("busy"); errors of the socket ("send", "receive").
        requests: requests sent.
        timeouts: requests that no answer came to in time.
        rtt: the smoothed round trip in seconds; None before the first answer.
        lookups: lookups begun, the node's own refreshes included.
        lookups_active: lookups under way.
        contacts: contacts in the routing table.
        topics: topics that this node stores peers of.
        records: peers that this node stores.
        callback_queue: packets that wait for the callback.
        callback_dropped: packets that were dropped because too many waited.
        callback_errors: calls of the callback that raised.
        uptime: seconds since the node was made.
    """

    __slots__ = ()


for _class in (KadepyError, RequestTimeout, BootstrapError, ClosedError, Peer, Node, Stats):
    _class.__module__ = "kadepy"
