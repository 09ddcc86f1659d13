"""`Swarm`: one node of the network, as a program holds it. What it does is done in the core."""

from __future__ import annotations

import os
from collections.abc import Sequence

from kadepy import _core

# As in `typing`, whose import would cost more than all else here.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType
    from typing import Any, NoReturn

    from typing_extensions import Buffer

    from kadepy._core import Config
    from kadepy._types import Node, Peer, Stats

    _Address = Peer | Node | tuple[str, int]
    _Contact = str | tuple[str, int] | Node
    _Keys = Buffer | Sequence[Buffer]
    _Callback = Callable[[bytes, int, str, int, object], object]

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
    "Swarm",
]


def _contacts(given: _Contact | Iterable[_Contact]) -> _Contact | Iterable[_Contact]:
    # An iterable may be any code, which must not run inside the core. What is none, that refuses.
    if isinstance(given, (str, tuple)) or not hasattr(given, "__iter__"):
        return given
    return list(given)


def _keys(given: Any) -> Any:
    # As with contacts. What has bytes is one key, though it may be a sequence too.
    try:
        memoryview(given)
    except (TypeError, ValueError):
        if isinstance(given, Sequence) and not isinstance(given, (str, memoryview)):
            return list(given)
    return given


def _path(given: Any) -> Any:
    # As with contacts.
    return os.fspath(given) if hasattr(type(given), "__fspath__") else given


class Swarm:
    """One node: a UDP socket, the thread that serves it and a routing table.

    Any number of them live in one process. Every method is safe from any thread. A blocking one
    releases the GIL, answers Ctrl-C, and ends with `ClosedError` when the node is closed; its
    `timeout` is seconds, or None for as long as the work takes. Every node is closed when the main
    thread ends, so keep it alive (`thread.join()`) while other threads need one.

    Args:
        port: the UDP port to bind to; 0 lets the system choose.
        host: the IP address to bind to. An IPv4 address makes an IPv4 node, an IPv6 address an
            IPv6 node.
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
        state_path: the path of a file that keeps the node's id and its good contacts, so that it
            comes back as the same node and joins without `bootstrap`; lookups wait for that, too.
            It is made where there is none, and saved every 5 minutes and when the node is closed.
            One node at a time may use it. Where `node_id` is given, that is the id. A file that is
            no state file, damaged or of a later KadePy gives a `RuntimeWarning`: it is kept under
            the same name with ``.bad`` behind it, and the node starts afresh.
        config: a `Config` with other limits than the defaults.

    What it has to tell about itself goes to the logger ``kadepy``, where `logging` is set up when
    the node is made.

    Raises:
        OSError: the address cannot be bound, or the file at `state_path` cannot be read or made;
            with its errno.
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

    A private network:

    >>> import secrets
    >>> from kadepy import RequestTimeout
    >>> key = secrets.token_bytes(32)
    >>> member, stranger = Swarm(host="127.0.0.1", network_key=key), Swarm(host="127.0.0.1")
    >>> with member, stranger:
    ...     try:
    ...         stranger.ping(member.address, timeout=0.5)
    ...     except RequestTimeout:
    ...         print("no answer")
    no answer
    """

    def __init__(
        self,
        port: int = 0,
        *,
        host: str = "0.0.0.0",
        bootstrap: _Contact | Iterable[_Contact] = (),
        node_id: Buffer | None = None,
        network_key: _Keys | None = None,
        cipher: str = "sealed",
        state_path: str | os.PathLike[str] | None = None,
        config: Config | None = None,
    ) -> None:
        from kadepy import _runtime

        self._cipher = None if network_key is None else cipher
        try:
            self._node = _core.Node(
                port,
                host,
                _contacts(bootstrap),
                node_id,
                _keys(network_key),
                cipher,
                _path(state_path),
                config,
                _runtime.wants_log(),
            )
        finally:
            # Some tracebacks show what the frames hold.
            del network_key

    @property
    def id(self) -> bytes:
        """The node's id, 32 bytes."""
        return self._node.id

    @property
    def port(self) -> int:
        """The UDP port that it is bound to."""
        return self._node.port

    @property
    def host(self) -> str:
        """The IP address that it is bound to."""
        return self._node.host

    @property
    def address(self) -> tuple[str, int]:
        """`host` and `port`. "0.0.0.0" stands for every interface: no address to contact it at."""
        return (self._node.host, self._node.port)

    @property
    def closed(self) -> bool:
        """Whether it is closed, or belongs to the parent of this process."""
        return self._node.closed

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
        return self._node.bootstrap(_contacts(ip), port, timeout)

    def ping(
        self, ip: str | _Address, port: int | None = None, *, timeout: float | None = 2.0
    ) -> float:
        """Asks one node whether it is there.

        Args:
            ip: its IP address, with `port`; or a `Peer`, a `Node` or a pair in the place of both.
            port: its port.
            timeout: seconds. The question is repeated within them.

        Returns:
            The round trip in seconds.

        Raises:
            RequestTimeout: it did not answer.
        """
        return self._node.ping(ip, port, timeout)

    def find_node(self, target: Buffer, *, timeout: float | None = 10.0) -> list[Node]:
        """Looks up the nodes nearest to an id.

        Args:
            target: the id, 32 bytes.
            timeout: seconds; when they are over, what was found counts.

        Returns:
            The k (20) nodes nearest to `target` that answered, the nearest first. None in an
            empty table.
        """
        return self._node.find_node(target, timeout)

    def find_node_iterative(
        self, target_id: Buffer, timeout: float | None = 2.0
    ) -> list[tuple[str, int]]:
        """Looks up the nodes nearest to an id, as v0.1 gives them: `(ip, port)` pairs."""
        return [(node.ip, node.port) for node in self._node.find_node(target_id, timeout)]

    def get_peers(self, topic: Buffer, timeout: float | None = 10.0) -> list[Peer]:
        """Finds the peers that announced a topic.

        Asks all of the k (20) nodes nearest to the topic, not only the first that knows any, and
        includes what this node itself stores.

        Args:
            topic: 32 bytes; `kadepy.topic(name)` gives those of a name.
            timeout: seconds; when they are over, what was found counts.

        Returns:
            The peers, each once, in the order in which they were found.

        >>> from kadepy import Swarm, topic
        >>> with Swarm(host="127.0.0.1") as lonely:
        ...     lonely.get_peers(topic("chess"))
        []
        """
        return list(self._node.iter_peers(topic, timeout))

    def iter_peers(self, topic: Buffer, *, timeout: float | None = 10.0) -> Iterator[Peer]:
        """Finds the peers that announced a topic, and gives each as it arrives.

        The lookup begins at once. Leaving the loop early and dropping the iterator ends it.

        Args:
            topic: 32 bytes; `kadepy.topic(name)` gives those of a name.
            timeout: seconds until the iterator ends.

        Returns:
            An iterator over the peers, each once.
        """
        return self._node.iter_peers(topic, timeout)

    def announce_peer(
        self, topic: Buffer, port: int | None = None, *, timeout: float | None = 10.0
    ) -> int:
        """Stores this host as a peer of a topic, at the k (20) nodes nearest to the topic.

        They keep it for 30 minutes. The address is the one that they see.

        Args:
            topic: 32 bytes; `kadepy.topic(name)` gives those of a name.
            port: where the peer listens; by default the port that this node's packets come from.
            timeout: seconds; when they are over, the confirmations so far count.

        Returns:
            How many nodes confirmed that they store it. After 0 nobody can find it: announce again
            when others are there.
        """
        return self._node.announce_peer(topic, port, timeout)

    announce = announce_peer

    def announce_to(
        self,
        target_ip: str | _Address,
        target_port: int | Buffer | None = None,
        topic_hash: Buffer | int | None = None,
        port: int | None = None,
    ) -> None:
        """Announces a topic to one node, and waits for nothing.

        A `Peer`, a `Node` or a pair may stand in the place of the first two arguments.

        Args:
            target_ip: the node's IP address.
            target_port: its port.
            topic_hash: 32 bytes.
            port: where the peer listens; by default the port that this node's packets come
                from.
        """
        if isinstance(target_ip, tuple) and target_port is not None:
            announced = topic_hash if port is None else port
            self._node.announce_to(target_ip, None, target_port, announced)
        else:
            self._node.announce_to(target_ip, target_port, topic_hash, port)

    def lookup_from(
        self,
        target_ip: str | _Address,
        target_port: int | Buffer | None = None,
        topic_hash: Buffer | None = None,
    ) -> None:
        """Asks one node for the peers of a topic, and waits for nothing: see `set_callback`.

        A `Peer`, a `Node` or a pair may stand in the place of the first two arguments.

        Args:
            target_ip: the node's IP address.
            target_port: its port.
            topic_hash: 32 bytes.
        """
        if isinstance(target_ip, tuple) and topic_hash is None:
            target_port, topic_hash = None, target_port
        self._node.lookup_from(target_ip, target_port, topic_hash)

    def send(
        self,
        ip: str | _Address,
        port: int | None = None,
        type: int | Buffer | None = None,
        payload: Buffer | None = None,
    ) -> None:
        """Sends an application's own message, which reaches the callback of the node there.

        It is one datagram: it may be lost, and nothing says so. A `Peer`, a `Node` or a pair
        may stand in the place of the first two arguments.

        Args:
            ip: the receiver's IP address.
            port: its port.
            type: the message's type, 16 to 255.
            payload: at most 1,100 bytes.
        """
        if isinstance(ip, tuple) and payload is None:
            port, type, payload = None, port, type
        elif isinstance(ip, tuple) and type is None:
            port, type = None, port
        self._node.send(ip, port, type, payload)

    def set_callback(self, fn: _Callback | None) -> None:
        """Sets what is called with every packet: ``fn(sender_id, msg_type, ip, port, payload)``.

        Calls come one at a time, in the order of arrival, on a thread of their own. A slow one
        delays no packet: `Config.callback_queue` packets wait, then the oldest is dropped and
        counted. What one raises goes to `sys.unraisablehook`, and the next one is called.

        Args:
            fn: a plain function, or None for no callback any more. The payload is a list of
                ``{"id", "ip", "port"}`` dicts for FOUND_NODES, of ``{"ip", "port"}`` dicts for
                PEERS, the body as bytes for other types that have one, else None.
        """
        self._node.set_callback(fn)

    def nodes(self) -> list[Node]:
        """The contacts in the routing table, by bucket, the farthest bucket first."""
        return self._node.nodes()

    def dump_table(self) -> None:
        """Prints the routing table, the nearest contact first."""
        from kadepy import _runtime

        _runtime.print_table(self._node.id, self._node.nodes())

    def stats(self) -> Stats:
        """What the node did so far and holds now; of a closed node, at its end."""
        return self._node.stats()

    def save(self) -> None:
        """Saves the node's id and contacts to the file at `state_path` now.

        The node does so by itself every 5 minutes and when it is closed; where that fails, it logs
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

    def __enter__(self) -> Swarm:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        if not hasattr(self, "_node"):
            return "<Swarm, not started>"
        host = f"[{self.host}]" if ":" in self.host else self.host
        cipher = f" {self._cipher}" if self._cipher else ""
        state = " closed" if self.closed else ""
        return f"<Swarm {self.id[:4].hex()}... on {host}:{self.port}{cipher}{state}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("cannot pickle or copy a Swarm: it owns a socket and a thread")

    def __del__(self) -> None:
        # A constructor that raised has left no node.
        node = getattr(self, "_node", None)
        if node is None or node.closed:
            return
        import warnings

        message = f"unclosed {self!r}: use it in a with block, or close() it"
        # First, for where warnings are errors the warning is the last that happens here.
        node.close()
        warnings.warn(message, ResourceWarning, stacklevel=2, source=self)
