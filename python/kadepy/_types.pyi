"""KadePy's errors and values, with their types."""

from typing import NamedTuple, Self, final

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

class KadepyError(Exception): ...
class RequestTimeout(KadepyError, TimeoutError): ...
class BootstrapError(KadepyError, ConnectionError): ...
class ClosedError(KadepyError, RuntimeError): ...

class Peer(NamedTuple):
    ip: str
    port: int

@final
class LinkPeer(Peer):
    def __new__(cls, ip: str, port: int, scope: int) -> Self: ...

class Node(NamedTuple):
    id: bytes
    ip: str
    port: int

class Packet(NamedTuple):
    sender_id: bytes
    msg_type: int
    ip: str
    port: int
    payload: list[dict[str, bytes | str | int]] | bytes | None

class Stats(NamedTuple):
    packets_in: dict[str, int]
    packets_out: dict[str, int]
    bytes_in: int
    bytes_out: int
    dropped: dict[str, int]
    requests: int
    timeouts: int
    rtt: float | None
    lookups: int
    lookups_active: int
    contacts: int
    topics: int
    records: int
    callback_queue: int
    callback_dropped: int
    callback_errors: int
    uptime: float
    reachable: bool | None
    read_only: bool

class Lookup(NamedTuple):
    goal: str
    target: bytes
    asker: int
    success: bool
    nodes: list[Node]
    peers: list[Peer]
    confirmed: int
    hops: int
    queries: int
    messages: int
    latency: float
    path: list[Node]
    started: float
    number: int
    named: int
    dead: int
    barred: int

class Spread(NamedTuple):
    mean: float
    p50: float
    p90: float
    p99: float
    max: float

class TableFill(NamedTuple):
    mean: float
    min: int
    max: int

class Report(NamedTuple):
    success: float | None
    exact: float | None
    hops: Spread | None
    queries: Spread | None
    messages: Spread | None
    latency_ms: Spread | None
    dead: float | None
    barred: float | None
    lookups: int
    find_nodes: int
    table_fill: TableFill | None
    datagrams: int
    bytes: int
    nodes: int
    seed: int
    virtual_seconds: float
    wall_seconds: float
    memory_bytes_per_node: int | None
