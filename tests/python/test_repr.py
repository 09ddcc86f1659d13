"""`repr` of everything public: what a log or a debugger then shows of it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

from conftest import wait_until
from kadepy import (
    AsyncSwarm,
    Config,
    Lookup,
    Node,
    Packet,
    Peer,
    Simulation,
    Spread,
    Stats,
    Swarm,
    TableFill,
)

TOPIC = bytes(range(32))
Make = Callable[..., Swarm]


def assert_shown(value: object, *parts: str) -> None:
    """One line that has all of these."""
    shown = repr(value)
    assert "\n" not in shown
    for part in parts:
        assert part in shown


def test_values_show_their_fields_and_ids_cut() -> None:
    assert repr(Peer("192.0.2.1", 80)) == "Peer(ip='192.0.2.1', port=80)"
    assert repr(Node(TOPIC, "::1", 80)) == "Node(id=00010203..., ip='::1', port=80)"
    packet = Packet(TOPIC, 20, "192.0.2.1", 80, b"hi")
    assert_shown(packet, "Packet(sender_id=00010203..., msg_type=20, ip=", "payload=b'hi')")
    assert repr(Config()) == "Config()"
    assert repr(Config(k=8, legacy="never")) == "Config(k=8, legacy='never')"
    assert repr(Spread(1.0, 1, 1, 1, 2)) == "Spread(mean=1.0, p50=1, p90=1, p99=1, max=2)"
    assert repr(TableFill(1.5, 1, 2)) == "TableFill(mean=1.5, min=1, max=2)"


def test_values_of_foreign_kinds_are_shown_too() -> None:
    assert repr(Node(None, None, None)) == "Node(id=None, ip=None, port=None)"  # type: ignore[arg-type]


def test_a_swarm_shows_its_id_address_cipher_and_end(make_swarm: Make) -> None:
    swarm = make_swarm(node_id=TOPIC, network_key=bytes(31) + b"k")
    assert repr(swarm) == f"<Swarm 00010203... on 127.0.0.1:{swarm.port} sealed>"
    swarm.close()
    assert repr(swarm) == f"<Swarm 00010203... on 127.0.0.1:{swarm.port} sealed closed>"
    public = make_swarm(node_id=TOPIC)
    assert repr(public) == f"<Swarm 00010203... on 127.0.0.1:{public.port}>"
    assert repr(Swarm.__new__(Swarm)) == "<Swarm, not started>"


def test_stats_show_every_figure(swarm: Swarm) -> None:
    shown = repr(swarm.stats())
    assert re.findall(r"(\w+)=", shown) == list(Stats._fields)
    assert "'PING': 0" in shown


def test_a_membership_shows_what_became_of_it(make_network: Callable[[int], list[Swarm]]) -> None:
    first, second = make_network(2)
    lonely = first.join(TOPIC, 4000)
    assert repr(lonely).startswith("<Membership of 00010203... on port 4000: ")
    second.join(TOPIC, 4001)
    wait_until(lambda: lonely.stored and lonely.peers)
    assert_shown(lonely, "nodes that store it: 1; peers: 1>")
    lonely.leave()
    assert repr(lonely) == "<Membership of 00010203... on port 4000: ended>"
    unannounced = second.join(bytes([255] * 32))
    second.close()
    assert repr(unannounced) == "<Membership of ffffffff...: ended>"


def test_an_iterator_of_peers_shows_its_topic_and_whether_more_come(make_swarm: Make) -> None:
    swarm, silent = make_swarm(config=Config(request_timeout=60)), make_swarm()
    swarm.ping(silent.address)
    silent.close()
    peers = swarm.iter_peers(TOPIC, timeout=60)
    assert repr(peers) == "<Peers of 00010203...: lookup under way>"
    swarm.close()
    assert repr(peers) == "<Peers of 00010203...: lookup over>"


def test_what_asyncio_iterates_over_shows_the_same() -> None:
    async def main() -> None:
        async with AsyncSwarm(host="127.0.0.1", node_id=TOPIC) as swarm:
            at = f"127.0.0.1:{swarm.port}"
            assert repr(swarm) == f"<AsyncSwarm 00010203... on {at}>"
            assert repr(swarm.join(TOPIC)).startswith("<AsyncMembership of 00010203...: ")
            peers, packets = swarm.iter_peers(TOPIC), swarm.packets()
            assert repr(packets) == f"<Packets of <AsyncSwarm 00010203... on {at}>: 0 waiting>"
            assert [peer async for peer in peers] == []
            assert repr(peers) == "<AsyncPeers of 00010203...: lookup over>"
        assert_shown(packets, f"on {at} closed>: 0 waiting over>")

    asyncio.run(main())


def test_a_simulation_and_what_it_gives_show_what_happened() -> None:
    sim = Simulation(30, seed=7)
    assert repr(sim) == "<Simulation of 30 nodes, seed 7, at 0.0 s>"
    lookup = sim.find_node(TOPIC)
    assert isinstance(lookup, Lookup)
    assert_shown(lookup, "Lookup(goal='nodes', target=00010203..., asker=", "success=True")
    assert_shown(sim.report(), "Report(success=None, exact=1.0, hops=Spread(mean=", "seed=7")
