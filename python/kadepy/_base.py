"""What `Swarm` and `AsyncSwarm` share: how a node is made, and what waits for nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence

from kadepy import _core

# As in `typing`, whose import would cost more than all else here.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, NoReturn

    from typing_extensions import Buffer

    from kadepy._core import Config
    from kadepy._types import Node, Peer, Stats

    _Address = Peer | Node | tuple[str, int]
    _Contact = str | tuple[str, int] | Node
    _Keys = Buffer | Sequence[Buffer]


def contacts(given: _Contact | Iterable[_Contact]) -> _Contact | Iterable[_Contact]:
    """Contacts as the core takes them."""
    # An iterable may be any code, which must not run inside the core. What is none, that refuses.
    if isinstance(given, (str, tuple)) or not hasattr(given, "__iter__"):
        return given
    return list(given)


def keys(given: Any) -> Any:
    """Network keys as the core takes them."""
    # As with contacts. What has bytes is one key, though it may be a sequence too.
    try:
        memoryview(given)
    except (TypeError, ValueError):
        if isinstance(given, Sequence) and not isinstance(given, (str, memoryview)):
            return list(given)
    return given


def path(given: Any) -> Any:
    """A path as the core takes it."""
    # As with contacts.
    return os.fspath(given) if hasattr(type(given), "__fspath__") else given


class BaseMembership:
    """A topic that a node stays announced under, as threads and asyncio alike hold it."""

    def __init__(self, members: _core.Members, kept: set[_core.Members]) -> None:
        self._members = members
        # The peers and the nodes that stored it, as they were when it was left.
        self._last: tuple[list[Peer], int | None] = ([], None)
        # It lasts until it is left, whether anybody holds this or not.
        self._kept = kept
        kept.add(members)

    @property
    def topic(self) -> bytes:
        """The topic, 32 bytes."""
        return self._members.topic

    @property
    def port(self) -> int | None:
        """The port announced; None stands for the one that the node's packets come from."""
        return self._members.port

    @property
    def peers(self) -> list[Peer]:
        """The other peers that were announced lately, in the order in which they came.

        A peer that no lookup found for as long as a record lives (30 minutes) is no longer among
        them. After the end these are the ones known then.
        """
        # Before the question, for another thread may leave it meanwhile.
        peers = self._members.after(0)[0]
        return peers if self._members in self._kept else self._last[0].copy()

    @property
    def stored(self) -> int | None:
        """How many nodes stored the last announce; None before the first is over.

        After 0 nobody can find this peer, and the announce is soon tried again; but for nodes of
        v0.1, which store and do not say so. After the end it is what was known then.
        """
        stored = self._members.confirmed
        return stored if self._members in self._kept else self._last[1]

    def leave(self) -> None:
        """Ends it: nothing is announced or looked up any more. Any thread may call it, again too.

        What other nodes store expires there within 30 minutes.
        """
        self._last = (self.peers, self.stored)
        self._kept.discard(self._members)
        self._members.close()

    def __repr__(self) -> str:
        if not hasattr(self, "_members"):
            return f"<{type(self).__name__}, not started>"
        port = "" if self.port is None else f" on port {self.port}"
        if self._members.closed:
            state = "ended"
        else:
            stored = (
                "not announced yet"
                if self.stored is None
                else f"nodes that store it: {self.stored}"
            )
            state = f"{stored}; peers: {len(self.peers)}"
        return f"<{type(self).__name__} of {self.topic[:4].hex()}...{port}: {state}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"cannot pickle or copy {self!r}: it belongs to a node")


class BaseSwarm:
    """One node, as threads and asyncio alike hold it."""

    # Whether v0.1's functions may act on it.
    _is_default = False
    # How one closes it, for the warning to who did not.
    _use: str

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
        read_only: bool | None = None,
        config: Config | None = None,
    ) -> None:
        self._cipher = None if network_key is None else cipher
        self._memberships: set[_core.Members] = set()
        try:
            self._node = _core.Node(
                port,
                host,
                contacts(bootstrap),
                node_id,
                keys(network_key),
                cipher,
                path(state_path),
                read_only,
                config,
                self._is_default,
            )
        finally:
            # Some tracebacks show what the frames hold.
            del network_key

    # Errors of its arguments name the class that one knows.
    __init__.__qualname__ = "Swarm.__init__"

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
    def external_address(self) -> Peer | None:
        """The public address and port at which other networks agree that they see this node.

        Each answer of a public node says where it comes from as that node sees it. Each network (a
        /24 of IPv4, a /48 of IPv6) has one vote, the last 40 count, and more than half of them, two
        at least, must agree. Until then, and for a node among local nodes, it is None. It changes
        while the node runs: a translator (NAT) gives the node another port, a line another address.
        The logger ``kadepy`` tells of it, and joined topics are announced again.

        Of a node that has addresses of both families it is the IPv4 one; `external_addresses` has
        both.

        >>> from kadepy import Swarm
        >>> with Swarm(host="127.0.0.1") as first, Swarm(host="127.0.0.1") as second:
        ...     second.bootstrap(first.address)
        ...     print(second.external_address)
        1
        None
        """
        addresses = self._node.external_addresses
        return addresses[0] if addresses else None

    @property
    def external_addresses(self) -> list[Peer]:
        """The external address of each family for which there is one, IPv4 first."""
        return self._node.external_addresses

    @property
    def closed(self) -> bool:
        """Whether it is closed, or belongs to the parent of this process."""
        return self._node.closed

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

    def __repr__(self) -> str:
        if not hasattr(self, "_node"):
            return f"<{type(self).__name__}, not started>"
        host = f"[{self.host}]" if ":" in self.host else self.host
        cipher = f" {self._cipher}" if self._cipher else ""
        state = " read-only" if self._node.read_only else ""
        state += " closed" if self.closed else ""
        return (
            f"<{type(self).__name__} {self.id[:4].hex()}... on {host}:{self.port}{cipher}{state}>"
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"cannot pickle or copy {self!r}: it owns a socket and a thread")

    def __del__(self) -> None:
        # A constructor that raised has left no node.
        node = getattr(self, "_node", None)
        if node is None or node.closed:
            return
        import warnings

        message = f"unclosed {self!r}: use it in {self._use}, or close() it"
        # First, for where warnings are errors the warning is the last that happens here.
        node.close()
        warnings.warn(message, ResourceWarning, stacklevel=2, source=self)
