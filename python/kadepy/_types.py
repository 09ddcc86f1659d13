"""KadePy's errors and values, which Python code defines and the core makes; nothing that acts."""

from collections import namedtuple

__all__ = [
    "BootstrapError",
    "ClosedError",
    "KadepyError",
    "Lookup",
    "Node",
    "Packet",
    "Peer",
    "Report",
    "RequestTimeout",
    "Spread",
    "Stats",
    "TableFill",
]


def _short(node_id):
    return f"{node_id[:4].hex()}..." if isinstance(node_id, bytes) else repr(node_id)


def _shown(value, cut):
    fields = ", ".join(
        f"{name}={_short(field) if name == cut else repr(field)}"
        for name, field in zip(value._fields, value, strict=True)
    )
    return f"{type(value).__name__}({fields})"


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

    A named tuple, so that ``sock.connect(peer)`` works. A link-local IPv6 address comes with its
    interface, such as ``"fe80::1%eth0"``, and can be connected to as well.

    >>> from kadepy import Peer
    >>> Peer("192.0.2.1", 4000).port
    4000
    """

    __slots__ = ()


class LinkPeer(Peer):
    """A peer at a link-local IPv6 address: a pair like any other peer, which `connect` takes.

    Of a pair, CPython's ``connect`` takes no interface, only of a tuple of four. It reads the four
    items that are stored here; everything else sees the first two.
    """

    __slots__ = ()

    def __new__(cls, ip, port, scope):
        """With the number of the interface."""
        return tuple.__new__(cls, (ip, port, 0, scope))

    def __getnewargs__(self):
        """For `copy` and `pickle`."""
        return self.ip, self.port, tuple.__getitem__(self, 3)

    def __len__(self):
        return 2

    def __iter__(self):
        return iter((self.ip, self.port))

    def __getitem__(self, key):
        return (self.ip, self.port)[key]

    def __contains__(self, value):
        return value in (self.ip, self.port)

    def __eq__(self, other):
        return isinstance(other, tuple) and (self.ip, self.port) == (*other,)

    def __ne__(self, other):
        return not self == other

    def __hash__(self):
        return hash((self.ip, self.port))

    def __repr__(self):
        """As every peer."""
        return f"Peer(ip={self.ip!r}, port={self.port!r})"


class Node(namedtuple("Node", ["id", "ip", "port"])):
    """A node of the network: its id (32 bytes), IP address (a str) and port."""

    __slots__ = ()

    def __repr__(self):
        """The id as hex, cut: enough to tell two nodes apart."""
        return _shown(self, "id")


class Packet(namedtuple("Packet", ["sender_id", "msg_type", "ip", "port", "payload"])):
    """A packet that came in: a callback's arguments as a named tuple.

    Attributes:
        sender_id: the id of the node that it is from, 32 bytes.
        msg_type: its type: 16 to 255 an application's, else one of ``kadepy.swarm.MSG_*`` and other
            types of the protocol.
        ip: its source's IP address.
        port: its source's port.
        payload: a list of ``{"id", "ip", "port"}`` dicts for FOUND_NODES, of ``{"ip", "port"}``
            dicts for PEERS, the body as bytes for other types that have one, else None.
    """

    __slots__ = ()

    def __repr__(self):
        """The sender's id as hex, cut."""
        return _shown(self, "sender_id")


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
            and "unsolicited" packets; requests and application messages beyond the "rate" allowed
            to an address or to all; announces refused for their "token" or a "storage" cap;
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


class Lookup(
    namedtuple(
        "Lookup",
        [
            "goal",
            "target",
            "asker",
            "success",
            "nodes",
            "peers",
            "confirmed",
            "hops",
            "queries",
            "messages",
            "latency",
            "path",
            "started",
            "number",
        ],
    )
):
    """A lookup in a `Simulation`: what it found, what it cost, and the way that it took.

    Attributes:
        goal: "nodes" (the nodes nearest to the target), "record" (a record that the true nearest
            nodes store since the lookup began), "peers" (who was announced for the target) or
            "announce".
        target: the 32 bytes that were looked up.
        asker: the number of the node that looked up, from 0.
        success: whether it found exactly the k nearest nodes that live; or the record; or any
            peer; or was confirmed by any node.
        nodes: the nodes that it found, the nearest first; empty but for "nodes".
        peers: the peers that it found.
        confirmed: how many nodes confirmed an announce.
        hops: the length of `path`.
        queries: queries that it sent, repeated ones included.
        messages: queries, and the answers to them that came.
        latency: how long it took, in virtual seconds.
        path: the way to the nearest node that it found, or to the one that gave the record or the
            first peer: whom the asker's own table named, whom that one named, and so on. Empty for
            an announce.
        started: when it began, in virtual seconds.
        number: its number, in the order of beginnings, from 1.
    """

    __slots__ = ()

    def __repr__(self):
        """The target as hex, cut."""
        return _shown(self, "target")


class Spread(namedtuple("Spread", ["mean", "p50", "p90", "p99", "max"])):
    """How a figure is spread over lookups: its mean, the value that so many percent of them do not
    exceed, and the greatest."""

    __slots__ = ()


class TableFill(namedtuple("TableFill", ["mean", "min", "max"])):
    """How many contacts the routing tables hold: in the mean, in the emptiest and the fullest."""

    __slots__ = ()


class Report(
    namedtuple(
        "Report",
        [
            "success",
            "exact",
            "hops",
            "queries",
            "messages",
            "latency_ms",
            "lookups",
            "find_nodes",
            "table_fill",
            "datagrams",
            "bytes",
            "nodes",
            "seed",
            "virtual_seconds",
            "wall_seconds",
            "memory_bytes_per_node",
        ],
    )
):
    """How lookups in a `Simulation` went, and how its network stands.

    All but the last two fields is equal for equal arguments and calls.

    Attributes:
        success: the share, 0 to 1, of lookups for a record that found it; None where there were
            none.
        exact: the share, 0 to 1, of lookups for nodes that gave exactly the k nearest nodes that
            live; None where there were none.
        hops: a `Spread` over both kinds of lookup: nodes on the way to what was found, those
            lookups left out that found nothing. None where there were none.
        queries: a `Spread` of queries sent, repeated ones included.
        messages: a `Spread` of queries and the answers to them that came.
        latency_ms: a `Spread` of virtual milliseconds from the beginning to the end.
        lookups: how many lookups for a record are over.
        find_nodes: how many lookups for nodes are over. Both are fewer than were asked for where
            nodes were switched off while they looked up.
        table_fill: a `TableFill` of the nodes alive; None where none is.
        datagrams: datagrams sent by all nodes since the beginning of the simulation.
        bytes: the bytes of these.
        nodes: how many nodes are alive.
        seed: the seed.
        virtual_seconds: the virtual time since the beginning.
        wall_seconds: the time that the simulation took by the clock on the wall.
        memory_bytes_per_node: bytes by which the process's resident memory grew since before the
            simulation was made, divided by the nodes that it was made with. It takes in all that
            the process did meanwhile, and a second simulation in a process reuses memory of the
            first: measure in a process of its own. None where the platform does not tell (only
            Linux does).
    """

    __slots__ = ()


for _class in (
    KadepyError,
    RequestTimeout,
    BootstrapError,
    ClosedError,
    Peer,
    Node,
    Packet,
    Stats,
    Lookup,
    Spread,
    TableFill,
    Report,
):
    _class.__module__ = "kadepy"
