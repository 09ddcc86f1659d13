"""KadePy's errors and values, with their types."""

from typing import NamedTuple

__all__ = [
    "BootstrapError",
    "ClosedError",
    "KadepyError",
    "Node",
    "Peer",
    "RequestTimeout",
    "Stats",
]

class KadepyError(Exception): ...
class RequestTimeout(KadepyError, TimeoutError): ...
class BootstrapError(KadepyError, ConnectionError): ...
class ClosedError(KadepyError, RuntimeError): ...

class Peer(NamedTuple):
    ip: str
    port: int

class Node(NamedTuple):
    id: bytes
    ip: str
    port: int

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
