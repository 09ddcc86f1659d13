"""The compiled core of KadePy. `kadepy` exports what is public."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar, final

from typing_extensions import Buffer

from kadepy._types import Lookup, Peer, Stats
from kadepy._types import Node as NodeTuple

__all__ = [
    "Config",
    "Lines",
    "Members",
    "Node",
    "Notices",
    "Operation",
    "Peers",
    "Simulation",
    "__version__",
    "_abandon_all",
    "_close_all",
    "_open_log",
    "_report",
    "create_swarm",
    "dht_announce_peer",
    "dht_find_node",
    "dht_get_peers",
    "dht_ping",
    "dump_routing_table",
    "send_packet",
    "set_callback",
    "set_network_key",
    "storage_cleanup",
    "topic",
    "xor_distance",
]

__version__: str

_Callback = Callable[[bytes, int, str, int, Any], object]
_Address = Peer | NodeTuple | tuple[str, int]
_Contact = str | tuple[str, int] | NodeTuple
_T = TypeVar("_T")

@final
class Config:
    """Every tunable of a node. Frozen, checked when made, equal and hashed by value.

    Each field is a keyword argument and an attribute; what is not given has the default
    that suits the open Internet. Times are seconds.

    >>> from kadepy import Config
    >>> Config(alpha=5).alpha
    5
    >>> Config(k=0)
    Traceback (most recent call last):
        ...
    ValueError: k must be from 1 to 20, got 0
    """

    def __new__(
        cls,
        *,
        k: int | None = None,
        alpha: int | None = None,
        lookup_queries: int | None = None,
        lookup_retries: int | None = None,
        shortlist: int | None = None,
        request_timeout: float | None = None,
        short_wait_min: float | None = None,
        short_wait_max: float | None = None,
        bucket_refresh: float | None = None,
        record_life: float | None = None,
        topics: int | None = None,
        topic_peers: int | None = None,
        records: int | None = None,
        records_per_ip: int | None = None,
        reply_peers: int | None = None,
        lookup_peers: int | None = None,
        candidates: int | None = None,
        candidate_pings: int | None = None,
        requests_per_second: int | None = None,
        requests_burst: int | None = None,
        requests_in_all: int | None = None,
        replacements: int | None = None,
        open_requests: int | None = None,
        operations: int | None = None,
        memberships: int | None = None,
        callback_queue: int | None = None,
        receive_buffer: int | None = None,
        legacy: str | None = None,
    ) -> Config: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, object]]: ...
    @property
    def k(self) -> int:
        """Contacts in a bucket, nodes in an answer, and nodes that a lookup ends on. More finds
        records more surely and costs more queries. Kademlia's k.

        Default 20; 1 to 20.
        """
    @property
    def alpha(self) -> int:
        """Queries of one lookup under way at once. More is faster where nodes are dead or slow
        and costs a few queries more. Kademlia's alpha.

        Default 4; 1 to 20.
        """
    @property
    def lookup_queries(self) -> int:
        """Queries that one lookup may send, retries included, before it ends with what it has.

        Default 120; 1 to 10000.
        """
    @property
    def lookup_retries(self) -> int:
        """Times that a lookup repeats a query that nobody answers, before it passes its contact
        over. More gives the nearest nodes more surely under loss, and takes longer where
        nodes are dead.

        Default 1; 0 to 5.
        """
    @property
    def shortlist(self) -> int:
        """Contacts that one lookup keeps in view, the nearest first.

        Default 100; 20 to 10000.
        """
    @property
    def request_timeout(self) -> float:
        """Seconds for which an answer to a request is still accepted.

        Default 2; 0.01 to 60.
        """
    @property
    def short_wait_min(self) -> float:
        """The least seconds after which a lookup goes on without an answer that it waits for.
        Less is faster past dead nodes and repeats more queries on a loaded machine.

        Default 0.05; 0.001 to 10.
        """
    @property
    def short_wait_max(self) -> float:
        """The most seconds for which a lookup holds a place for an answer, unless the round trips
        measured are about as long; twice that where nothing is measured yet.

        Default 0.5; 0.001 to 60.
        """
    @property
    def bucket_refresh(self) -> float:
        """Seconds after which a bucket that no lookup touched is refreshed by one.

        Default 900; 1 to 86400.
        """
    @property
    def record_life(self) -> float:
        """Seconds for which an announced peer is kept.

        Default 1800; 1 to 86400.
        """
    @property
    def topics(self) -> int:
        """Topics that this node stores; when full, records go of the address that has most, until
        a topic is free.

        Default 10000; 1 to 10000000.
        """
    @property
    def topic_peers(self) -> int:
        """Peers stored of one topic; when full, the oldest goes of the address that has most of it.
        A lookup takes no more than this from one node, but 256 at least.

        Default 256; 1 to 65536.
        """
    @property
    def records(self) -> int:
        """Peers stored in all; when full, the oldest goes of the address that has most. As many
        more may be known of joined topics.

        Default 100000; 1 to 100000000.
        """
    @property
    def records_per_ip(self) -> int:
        """Peers stored from one address that is not local; an IPv6 network of 64 bits counts as
        one.

        Default 1000; 1 to 100000000.
        """
    @property
    def reply_peers(self) -> int:
        """Peers in one answer, a random sample where more are stored. Who wants the rest asks
        for it part by part.

        Default 64; 1 to 128.
        """
    @property
    def lookup_peers(self) -> int:
        """Peers that one lookup collects, or one membership of a topic keeps, before it takes no
        more. A warning in the log says when that is so.

        Default 4096; 1 to 1000000.
        """
    @property
    def candidates(self) -> int:
        """Senders of requests that wait to be asked whether they are there; when full, a random one
        makes room. One address has one place, and networks of one owner have few.

        Default 256; 1 to 65536.
        """
    @property
    def candidate_pings(self) -> int:
        """Candidates asked in any one second. Local ones, and those that have announced with a
        token, are asked at once and do not count.

        Default 10; 1 to 1000.
        """
    @property
    def requests_per_second(self) -> int:
        """Requests a second that this node serves of one address that is not local, application
        messages included; an IPv6 network of 64 bits counts as one. What is beyond is dropped.
        A lookup asks a node once or twice, so that this is room for an office behind one address.

        Default 50; 1 to 1000000.
        """
    @property
    def requests_burst(self) -> int:
        """Requests that one such address may make at once, after a pause.

        Default 100; 1 to 1000000.
        """
    @property
    def requests_in_all(self) -> int:
        """Requests a second that this node serves of all such addresses together: less than a
        core can serve, so that forged sources do not take what its own lookups need.

        Default 50000; 1 to 1000000.
        """
    @property
    def replacements(self) -> int:
        """Contacts that wait beside each full bucket for a place in it.

        Default 10; 0 to 100.
        """
    @property
    def open_requests(self) -> int:
        """Requests of this node that may wait for an answer at once.

        Default 16384; 16 to 1000000.
        """
    @property
    def operations(self) -> int:
        """Lookups, announces, pings and joins that callers may have started and not seen the end
        of; one more is refused. Those for which the receive buffer has no room at the moment
        wait for their turn, the one that ends first first.

        Default 65536; 1 to 1000000.
        """
    @property
    def memberships(self) -> int:
        """Topics that this node has joined at once; one more is refused. As a round for each
        begins 100 ms after the last one, more than the default cannot be kept announced for
        the default `record_life`.

        Default 10000; 1 to 1000000.
        """
    @property
    def callback_queue(self) -> int:
        """Packets that wait for a slow callback before the oldest is dropped.

        Default 8192; 1 to 1000000.
        """
    @property
    def receive_buffer(self) -> int:
        """Bytes of socket receive buffer to ask the system for; it may give less. What it gives
        bounds how many questions this node has under way at once, and so how fast many
        lookups at once go where round trips are long.

        Default 4194304; 1024 to 1073741824.
        """
    @property
    def legacy(self) -> str:
        """With which addresses v0.1's packets are trusted as v0.1 trusts them (announces without
        a token, answers without a transaction id): `"local"`, `"never"` or `"always"`. A node
        of a sealed network trusts none of them, whatever stands here; one that is bound to a
        single address trusts as local only what that address can have for a neighbor.

        Default "local".
        """

@final
class Node:
    """One node. `kadepy.Swarm` is its public face and says what each method does."""

    def __new__(
        cls,
        port: int,
        host: str,
        bootstrap: _Contact | Iterable[_Contact],
        node_id: Buffer | None,
        network_key: Buffer | list[Buffer] | None,
        cipher: str,
        state_path: str | None,
        lan: bool,
        config: Config | None,
        is_default: bool,
    ) -> Node: ...
    @property
    def id(self) -> bytes: ...
    @property
    def port(self) -> int: ...
    @property
    def host(self) -> str: ...
    @property
    def closed(self) -> bool: ...
    def bootstrap(
        self, ip: _Contact | Iterable[_Contact], port: int | None, timeout: float | None
    ) -> Operation[int]: ...
    def ping(
        self, ip: str | _Address, port: int | None, timeout: float | None
    ) -> Operation[float]: ...
    def find_node(self, target: Buffer, timeout: float | None) -> Operation[list[NodeTuple]]: ...
    def iter_peers(self, topic: Buffer, timeout: float | None) -> Peers: ...
    def announce_peer(
        self, topic: Buffer, port: int | None, timeout: float | None
    ) -> Operation[int]: ...
    def join_topic(self, topic: Buffer, port: int | None, on_peer: object) -> Members: ...
    def send(self, ip: object, port: object, kind: object, payload: object) -> None: ...
    def announce_to(
        self, target_ip: object, target_port: object, topic_hash: object, port: object
    ) -> None: ...
    def lookup_from(self, target_ip: object, target_port: object, topic_hash: object) -> None: ...
    def set_callback(self, callback: _Callback | None) -> None: ...
    def nodes(self) -> list[NodeTuple]: ...
    def stats(self) -> Stats: ...
    def save(self) -> None: ...
    @property
    def callback_queue(self) -> int: ...
    def count_dropped(self) -> None: ...
    def count_error(self) -> None: ...
    def close(self) -> None: ...

@final
class Operation(Generic[_T]):
    """Work that has one result. Letting go of it ends the work."""

    def wait(self) -> _T: ...
    def result_now(self) -> _T: ...
    def listen(self, listener: Callable[[], object]) -> bool: ...
    def close(self) -> None: ...

@final
class Peers(Iterator[Peer]):
    """The peers that a lookup finds, each as it arrives. Letting go of it ends the lookup."""

    def __iter__(self) -> Peers: ...
    def __next__(self) -> Peer: ...
    def take(self) -> list[Peer] | None: ...
    def listen(self, listener: Callable[[], object]) -> bool: ...
    def close(self) -> None: ...

@final
class Members:
    """A topic joined, and the peers known of it. Letting go of it leaves the topic."""

    @property
    def topic(self) -> bytes: ...
    @property
    def port(self) -> int | None: ...
    @property
    def confirmed(self) -> int | None: ...
    def after(self, number: int) -> tuple[list[Peer], int]: ...
    @property
    def closed(self) -> bool: ...
    def listen(self, listener: Callable[[], object]) -> None: ...
    def close(self) -> None: ...

@final
class Notices:
    """What the dispatcher thread takes its work from."""

    def take(self) -> tuple[Callable[..., object], tuple[object, ...]] | None: ...
    @property
    def port(self) -> int: ...
    @property
    def closed(self) -> bool: ...
    def count_error(self) -> None: ...

@final
class Lines:
    """What the thread that writes log lines takes them from."""

    def take(self) -> tuple[int, str] | None: ...

@final
class Simulation:
    """A network on virtual time. `kadepy.Simulation` is its public face."""

    def __new__(
        cls,
        nodes: int,
        seed: int,
        loss: float,
        latency_ms: tuple[float, float],
        churn: float | None,
        hostile: float,
        conduct: str,
        local: bool,
        config: Config | None,
    ) -> Simulation: ...
    def advance(self, until: float | None) -> bool: ...
    @property
    def built_at(self) -> float: ...
    @property
    def now(self) -> float: ...
    @property
    def alive(self) -> int: ...
    @property
    def ended(self) -> int: ...
    def look_up(self, count: int, over: float) -> None: ...
    def forget_lookups(self) -> None: ...
    def find_node(self, target: Buffer, node: int | None) -> int | None: ...
    def get_peers(self, topic: Buffer, node: int | None) -> int | None: ...
    def announce(self, topic: Buffer, port: int, node: int | None) -> int | None: ...
    def lookups(self, start: int) -> list[Lookup]: ...
    def kill(self, share: float) -> int: ...
    def partition(self, share: float, span: float) -> None: ...
    def rebind(self, share: float) -> int: ...
    def traffic(self) -> tuple[int, int, int]: ...
    def fill(self) -> list[int]: ...
    def contact(self, node: int) -> NodeTuple | None: ...

def _open_log() -> Lines | None: ...
def _report(error: BaseException, function: object) -> None: ...
def _abandon_all() -> list[int]: ...
def _close_all(daemons: list[int]) -> None: ...
def create_swarm(port: int = 0) -> int:
    """Makes the process's node on `port` (0: the system chooses) and closes the one made before.

    Returns the port. Raises OSError where it cannot be bound; then the one made before stays,
    unless the port is its own.
    """

def set_callback(callback: _Callback | None) -> None:
    """Sets what is called with every packet: `callback(sender_id, msg_type, ip, port, payload)`.

    None removes it. It is the process's: a node that becomes the default one later takes it over
    when it is made, or else at the next call of one of these functions.
    """

def dht_ping(ip: str, port: int) -> None:
    """Sends a PING. The answer comes to the callback."""

def dht_find_node(ip: str, port: int, target: Buffer) -> None:
    """Sends a FIND_NODE for the 32-byte `target`. The answer comes to the callback."""

def dht_announce_peer(ip: str, port: int, topic: Buffer, announced_port: int) -> None:
    """Sends an ANNOUNCE_PEER of the 32-byte `topic`; `announced_port` is where the peer listens."""

def dht_get_peers(ip: str, port: int, topic: Buffer) -> None:
    """Sends a GET_PEERS of the 32-byte `topic`. The answer comes to the callback."""

def send_packet(ip: str, port: int, type: int, payload: Buffer) -> None:
    """Sends a packet of any type, 0 to 255, with `payload` (at most 1,100 bytes) as its body."""

def set_network_key(key: Buffer | None) -> None:
    """Sets the network key of the node that `create_swarm` made, and of those that it makes later.

    With a key, 32 bytes that all members share, packets are encrypted with v0.1's ChaCha20, and
    packets of others are not understood. That hides what they say; it does not stop anyone who
    can change packets on their way. None switches encryption off. Between a key and none a node
    forgets its contacts and what it stores. A `Swarm` is not touched: its keys are those that it
    was made with.
    """

def storage_cleanup(max_age_ms: int) -> None:
    """Forgets the stored peers that were announced `max_age_ms` milliseconds ago or earlier."""

def dump_routing_table() -> None:
    """Prints the routing table."""

def xor_distance(a: Buffer, b: Buffer) -> bytes:
    r"""The XOR distance of two 32-byte ids, as 32 bytes.

    >>> from kadepy import xor_distance
    >>> xor_distance(bytes(32), b"\x01" * 32) == b"\x01" * 32
    True
    """

def topic(name: str | Buffer) -> bytes:
    """The 32-byte topic of a name: the SHA-256 of its UTF-8, or of the bytes given.

    >>> from kadepy import topic
    >>> topic("chess") == topic(b"chess")
    True
    >>> len(topic("chess"))
    32
    """
