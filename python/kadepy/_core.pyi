"""The compiled core of KadePy. `kadepy` exports what is public."""

from collections.abc import Callable, Iterable, Iterator
from typing import final

from kadepy._types import Node as NodeTuple
from kadepy._types import Peer, Stats

__all__ = [
    "Config",
    "Node",
    "Peers",
    "__version__",
    "_abandon_all",
    "_close_all",
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

_Callback = Callable[[bytes, int, str, int, object], object]
_Contact = str | tuple[str, int] | NodeTuple
