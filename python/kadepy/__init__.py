"""KadePy: programs that find each other without a server, over a Kademlia network of their own."""

from kadepy._core import (
    Config,
    __version__,
    create_swarm,
    dht_announce_peer,
    dht_find_node,
    dht_get_peers,
    dht_ping,
    dump_routing_table,
    send_packet,
    set_callback,
    set_network_key,
    storage_cleanup,
    topic,
    xor_distance,
)
from kadepy._types import (
    BootstrapError,
    ClosedError,
    KadepyError,
    Node,
    Peer,
    RequestTimeout,
    Stats,
)
from kadepy.swarm import Swarm

__all__ = [
    "BootstrapError",
    "ClosedError",
    "Config",
    "KadepyError",
    "Node",
    "Peer",
    "RequestTimeout",
    "Stats",
    "Swarm",
    "__version__",
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
