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
    Lookup,
    Node,
    Packet,
    Peer,
    Report,
    RequestTimeout,
    Spread,
    Stats,
    TableFill,
)
from kadepy.simulation import Simulation
from kadepy.swarm import Membership, Swarm

# As in `typing`, whose import would cost more than all else here.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from kadepy.aio import AsyncMembership, AsyncSwarm

__all__ = [
    "AsyncMembership",
    "AsyncSwarm",
    "BootstrapError",
    "ClosedError",
    "Config",
    "KadepyError",
    "Lookup",
    "Membership",
    "Node",
    "Packet",
    "Peer",
    "Report",
    "RequestTimeout",
    "Simulation",
    "Spread",
    "Stats",
    "Swarm",
    "TableFill",
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


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        # Not at import, for asyncio costs more than all else here.
        if name in ("AsyncMembership", "AsyncSwarm"):
            from kadepy import aio

            return globals().setdefault(name, getattr(aio, name))
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(globals().keys() | set(__all__))
