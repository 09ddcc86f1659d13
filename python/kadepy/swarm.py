"""`Swarm`: one node of the network, as a program with threads holds it."""

from __future__ import annotations

from kadepy import _core
from kadepy._base import BaseMembership, BaseSwarm, contacts

# As in `typing`, whose import would cost more than all else here.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType
    from typing import Any, Self

    from typing_extensions import Buffer

    from kadepy._base import _Address, _Contact
    from kadepy._types import Node, Peer

    _Callback = Callable[[bytes, int, str, int, Any], object]

MSG_PING = 0
MSG_PONG = 1
MSG_FIND_NODE = 2
MSG_FOUND_NODES = 3
MSG_ANNOUNCE_PEER = 4
MSG_GET_PEERS = 5
MSG_PEERS = 6

__all__ = [
    "MSG_ANNOUNCE_PEER",
    "MSG_FIND_NODE",
    "MSG_FOUND_NODES",
    "MSG_GET_PEERS",
    "MSG_PEERS",
    "MSG_PING",
    "MSG_PONG",
    "Membership",
    "Swarm",
]


class Membership(BaseMembership):
    """A topic that a `Swarm` has joined: stays announced and looked up, until it is left.

    `Swarm.join` makes it. As a context manager it is left at the end of the block. Its peers are
    the others: never this node, nor an address at which it was seen within a record's life.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.leave()


class _Meeting:
    """Calls `on_peer` with those who are new, on the dispatcher's thread."""

    def __init__(
        self, node: _core.Node, members: _core.Members, on_peer: Callable[[Peer], object]
    ) -> None:
        self._node = node
        self._members = members
        self._on_peer = on_peer
        self._last = 0

    def __call__(self) -> None:
        from kadepy import _runtime

        peers, self._last = self._members.after(self._last)
        for peer in peers:
            if self._members.closed:
                return
            _runtime.call(self._node, self._on_peer, (peer,))


class Swarm(BaseSwarm):
    """One node: a UDP socket, the thread that serves it and a routing table.

    Any number of them live in one process. Every method is safe from any thread. A blocking one
    releases the GIL, answers Ctrl-C, and ends with `ClosedError` when the node is closed; its
    `timeout` is seconds, or None for as long as the work takes. Every node is closed when the main
    thread ends, so keep it alive (`thread.join()`) while other threads need one.

    Args:
        port: the UDP port to bind to; 0 lets the system choose.
        host: the IP address to bind to. With the default the node has every IPv4 address of the
            host, and all that it returns are IPv4 addresses, which any program can use. ``"::"``
            makes a node of both families, on one port, that finds peers in both; where the system
            has one of them alone, of that. One address makes a node of its family; a link-local one
            needs its interface: ``"fe80::1%eth0"``. A node with several addresses answers from the
            one that it was asked at.
        bootstrap: contacts to join through: one, or an iterable of them. Each is ``"host:port"``,
            ``"[v6]:port"``, ``(host, port)``, a `Peer` or a `Node`; a host may be a name. The node
            joins in the background and keeps trying; lookups wait for that.
        node_id: 32 bytes; by default random ones from the system's generator.
        network_key: 32 secret bytes that all members of a private network share, such as
            ``secrets.token_bytes(32)`` gives, once for all of them. Who does not hold them can
            neither read what is said in the network nor say anything in it. A list of up to 8
            keys lets a network change its key: the first seals, all open. None makes a node of a
            public network. The keys stay as they are for the life of the node.
        cipher: what is done with the key. ``"sealed"`` is XChaCha20-Poly1305 over whole packets.
            ``"chacha20"`` is v0.1's, for networks with nodes of v0.1: it hides what packets say,
            but not from whom they are, and it does not notice when they are changed.
        state_path: the path of a file that keeps the node's id, its port and its good contacts, so
            that it comes back as the same node and joins without `bootstrap`; lookups wait for
            that, too. Where `port` is not given, the node takes the kept one if it is free. The
            file is made where there is none, and saved seconds after the start, then less often, at
            last every 5 minutes, and when the node is closed. One node at a time may use it; an
            empty file with ``.lock`` behind its name holds the lock. Where `node_id` is given, that
            is the id. A file that is no state file, damaged or of a later KadePy gives a
            `RuntimeWarning`: it is kept under the same name with ``.bad`` behind it, and the node
            starts afresh.
        lan: whether the node finds others of the same network on the same link, such as one Wi-Fi
            or Ethernet, by multicast. Then it needs no `bootstrap` contact, if another node with
            ``lan=True`` and the same `network_key` is there. It goes on looking for its whole life,
            also on interfaces that come later, which costs one packet a minute on each. It uses
            all interfaces that have a local address, or only that of `host`; nodes on
            ``"127.0.0.1"`` find each other. In its first second, lookups wait until it knows
            somebody; after that, a lookup of a node that is alone finds nothing, at once. The
            logger ``kadepy`` tells which node it found first, at level INFO. A firewall has to let
            in UDP port 19280 and the node's own port.
        config: a `Config` with other limits than the defaults.

    What it has to tell about itself goes to the logger ``kadepy``. `logging` may be set up at any
    time; until then Python shows warnings and errors on stderr.

    Raises:
        OSError: the address cannot be bound, or the file at `state_path` cannot be read or made,
            or another node uses it (``EBUSY``); with its errno.
        ValueError, TypeError: a bad argument; the message says which, what came and what is
            allowed.

    >>> from kadepy import Swarm, topic
    >>> with Swarm(host="127.0.0.1") as first, Swarm(host="127.0.0.1") as second:
    ...     second.bootstrap(first.address)
    ...     second.announce_peer(topic("chess"), 4000)
    ...     first.get_peers(topic("chess"))
    1
    1
    [Peer(ip='127.0.0.1', port=4000)]

    No contact on one link, where two nodes look for each other:

    >>> import secrets
    >>> key = secrets.token_bytes(32)
    >>> first = Swarm(host="127.0.0.1", lan=True, network_key=key)
    >>> second = Swarm(host="127.0.0.1", lan=True, network_key=key)
    >>> with first, second:
    ...     first.announce_peer(topic("chess"), 4000)
    ...     second.get_peers(topic("chess"))
    1
    [Peer(ip='127.0.0.1', port=4000)]

    A private network:

    >>> from kadepy import RequestTimeout
    >>> member, stranger = Swarm(host="127.0.0.1", network_key=key), Swarm(host="127.0.0.1")
    >>> with member, stranger:
    ...     try:
    ...         stranger.ping(member.address, timeout=0.5)
    ...     except RequestTimeout:
    ...         print("no answer")
    no answer
    """

    _is_default = True
    _use = "a with block"

    def bootstrap(
        self,
        ip: _Contact | Iterable[_Contact],
        port: int | None = None,
        *,
        timeout: float | None = 5.0,
    ) -> int:
        """Joins the network: asks the contacts, looks up the own id, refreshes the table.

        Args:
            ip: a contact's address, with `port`; or a contact; or an iterable of contacts.
            port: the contact's port.
            timeout: seconds; when they are over, what was reached counts.

        Returns:
            How many contacts the routing table lists now.

        Raises:
            BootstrapError: no contact answered; the message names each one and why.
        """
        return self._node.bootstrap(contacts(ip), port, timeout).wait()

    def ping(
        self, ip: str | _Address, port: int | None = None, *, timeout: float | None = 2.0
    ) -> float:
        """Asks one node whether it is there.

        Args:
            ip: its IP address, with `port`; or a `Peer`, a `Node` or a pair in the place of both.
            port: its port.
            timeout: seconds. The question is repeated, with growing pauses, until they are over;
                with None three times.

        Returns:
            The round trip in seconds.

        Raises:
            RequestTimeout: it did not answer, or it is this node itself.
            OSError: the system refuses to send there, as without a route.
        """
        return self._node.ping(ip, port, timeout).wait()

    def find_node(self, target: Buffer, *, timeout: float | None = 10.0) -> list[Node]:
        """Looks up the nodes nearest to an id.

        Args:
            target: the id, 32 bytes.
            timeout: seconds; when they are over, what was found counts.

        Returns:
            The k (20) nodes nearest to `target` that answered, the nearest first. None in an
            empty table.

        Raises:
            OSError: the system refuses to send any question, as without a route.
        """
        return self._node.find_node(target, timeout).wait()

    def find_node_iterative(
        self, target_id: Buffer, timeout: float | None = 2.0
    ) -> list[tuple[str, int]]:
        """Looks up the nodes nearest to an id, as v0.1 gives them: `(ip, port)` pairs."""
        return [(node.ip, node.port) for node in self.find_node(target_id, timeout=timeout)]

    def get_peers(self, topic: Buffer, timeout: float | None = 10.0) -> list[Peer]:
        """Finds the peers that announced a topic.

        Asks all of the k (20) nodes nearest to the topic, not only the first that knows any, and
        includes what this node itself stores. If a node stores more peers than fit into one answer,
        it is asked for the rest too. If this node has joined the topic, its own record is included,
        as soon as others have told at which address they see it.

        A lookup stops at `Config.lookup_peers` (4096) peers. It then logs a warning to the logger
        ``kadepy``, and the list has exactly that many.

        Args:
            topic: 32 bytes; `kadepy.topic(name)` gives those of a name.
            timeout: seconds; when they are over, what was found counts.

        Returns:
            The peers, each once, in the order in which they were found.

        Raises:
            OSError: the system refuses to send any question, as without a route.

        >>> from kadepy import Swarm, topic
        >>> with Swarm(host="127.0.0.1") as lonely:
        ...     lonely.get_peers(topic("chess"))
        []
        """
        return list(self._node.iter_peers(topic, timeout))

    def iter_peers(self, topic: Buffer, *, timeout: float | None = 10.0) -> Iterator[Peer]:
        """Finds the peers that announced a topic, and gives each as it arrives.

        The lookup begins at once. Leaving the loop early and dropping the iterator ends it. It
        finds the same peers as `get_peers`, up to the same number.

        Args:
            topic: 32 bytes; `kadepy.topic(name)` gives those of a name.
            timeout: seconds until the iterator ends.

        Returns:
            An iterator over the peers, each once.

        Raises:
            OSError: the system refuses to send any question, as without a route.
        """
        return self._node.iter_peers(topic, timeout)

    def announce_peer(
        self, topic: Buffer, port: int | None = None, *, timeout: float | None = 10.0
    ) -> int:
        """Stores this host as a peer of a topic, at the k (20) nodes nearest to the topic.

        A node is told as soon as it has answered, if it is among the k nearest by then, so a few
        others may store it too. They keep it for 30 minutes. The address is the one that they see.

        Args:
            topic: 32 bytes; `kadepy.topic(name)` gives those of a name.
            port: where the peer listens; by default the port that this node's packets come from.
            timeout: seconds; when they are over, the confirmations so far count.

        Returns:
            How many nodes confirmed that they store it, k at most; with ``host="::"`` 2k, for it is
            announced to the k nearest of each family. After 0 nobody can find it: announce again
            when others are there.

        Raises:
            OSError: the system refuses to send any question, as without a route.
        """
        return self._node.announce_peer(topic, port, timeout).wait()

    announce = announce_peer

    def join(
        self,
        topic: Buffer,
        port: int | None = None,
        *,
        on_peer: Callable[[Peer], object] | None = None,
    ) -> Membership:
        """Joins a topic: keeps this host announced as a peer of it, and keeps finding the others.

        It is announced at once and again before the announce expires, by itself also after the
        network was away, and when a node that stored it has started again; each time the topic
        is looked up as well. That goes on until `leave()`
        or `close()`, whether the result is kept or not, but not longer than the `Swarm` is.

        Args:
            topic: 32 bytes; `kadepy.topic(name)` gives those of a name.
            port: where the peer listens; by default the port that this node's packets come from.
            on_peer: called with each new `Peer`, once, on the thread that runs callbacks. What it
                raises is logged.

        Returns:
            A `Membership`. It does not wait for the first announce.

        >>> import threading
        >>> from kadepy import Swarm, topic
        >>> first, second = Swarm(host="127.0.0.1"), Swarm(host="127.0.0.1")
        >>> with first, second:
        ...     met = threading.Event()
        ...     mine = first.join(topic("chess"), 4000, on_peer=lambda peer: met.set())
        ...     second.bootstrap(first.address)
        ...     with second.join(topic("chess"), 4001):
        ...         met.wait(10)
        ...     mine.peers
        1
        True
        [Peer(ip='127.0.0.1', port=4001)]
        """
        members = self._node.join_topic(topic, port, on_peer)
        membership = Membership(members, self._memberships)
        if on_peer is not None:
            members.listen(_Meeting(self._node, members, on_peer))
        return membership

    def set_callback(self, fn: _Callback | None) -> None:
        """Sets what is called with every packet: ``fn(sender_id, msg_type, ip, port, payload)``.

        Calls come one at a time, in the order of arrival, on a thread of their own. A slow one
        delays no packet: `Config.callback_queue` packets wait, then the oldest is dropped and
        counted. What one raises goes to the logger ``kadepy`` with its traceback, is counted in
        ``stats().callback_errors``, and the next one is called.

        Args:
            fn: a plain function, or None for no callback any more. The payload is a list of
                ``{"id", "ip", "port"}`` dicts for FOUND_NODES, of ``{"ip", "port"}`` dicts for
                PEERS, the body as bytes for other types that have one, else None.
        """
        self._node.set_callback(fn)

    def save(self) -> None:
        """Saves the node's id, port and contacts to the file at `state_path` now.

        The node does so by itself every 5 minutes, more often in the first, and when it is closed;
        where that fails, it logs
        a warning. Whenever the process or the machine stops, the file holds one save as a whole,
        the last or the one before. On systems with owners of files, only the owner can read it.

        Raises:
            OSError: the file cannot be written, with its errno. It is as it was.
            KadepyError: the node was made without a `state_path`.

        >>> import os, tempfile
        >>> from kadepy import Swarm
        >>> path = os.path.join(tempfile.mkdtemp(), "node.state")
        >>> with Swarm(host="127.0.0.1", state_path=path) as node:
        ...     node.save()
        >>> with Swarm(host="127.0.0.1", state_path=path) as again:
        ...     again.id == node.id
        True
        """
        self._node.save()

    def close(self) -> None:
        """Ends the node: frees its port and thread, and releases every caller that waits.

        Where it has a `state_path`, it saves for the last time.

        Any thread may call it, a callback too, any number of times. It takes two seconds at most.
        """
        self._node.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
