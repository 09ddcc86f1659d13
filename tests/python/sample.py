# pyright: strict
"""A program that uses all that is public, with types: for mypy and pyright, and to be run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import assert_type

import kadepy
from kadepy import (
    AsyncMembership,
    AsyncSwarm,
    BootstrapError,
    ClosedError,
    Config,
    KadepyError,
    Membership,
    Node,
    Packet,
    Peer,
    Report,
    RequestTimeout,
    Simulation,
    Stats,
    Swarm,
    topic,
)
from kadepy.testing import local_network

CHESS = topic("chess")


def heard(sender_id: bytes, msg_type: int, ip: str, port: int, payload: object) -> None:
    print(sender_id.hex(), msg_type, ip, port, payload)


def met(peer: Peer) -> None:
    print(peer.ip, peer.port)


def with_threads() -> None:
    with local_network(3, config=Config(alpha=5)) as swarms, Swarm(host="127.0.0.1") as swarm:
        assert_type(swarms, list[Swarm])
        swarm.set_callback(heard)
        assert_type(swarm.bootstrap([other.address for other in swarms]), int)
        assert_type(swarm.ping(swarms[0].address, timeout=None), float)
        nodes = swarm.find_node(bytearray(32))
        assert_type(nodes, list[Node])
        assert_type(swarm.ping(nodes[0]), float)
        assert_type(swarm.announce_peer(CHESS, 4000), int)
        assert_type(swarm.get_peers(memoryview(CHESS)), list[Peer])
        assert_type(swarm.iter_peers(CHESS), Iterator[Peer])
        with swarm.join(CHESS, 4000, on_peer=met) as membership:
            assert_type(membership, Membership)
            assert_type(membership.peers, list[Peer])
            assert_type(membership.stored, int | None)
        swarm.send(nodes[0], 20, b"hello")
        swarm.send("127.0.0.1", swarms[0].port, 20, b"hello")
        assert_type(swarm.stats(), Stats)
        assert_type(swarm.stats().dropped, dict[str, int])
        try:
            swarm.ping("127.0.0.1", swarm.port, timeout=0)
        except RequestTimeout as error:
            silent: TimeoutError = error
            print(silent)
        try:
            swarm.bootstrap("127.0.0.1", 9, timeout=0)
        except BootstrapError as error:
            alone: ConnectionError = error
            print(alone)
    try:
        swarm.nodes()
    except ClosedError as error:
        closed: RuntimeError = error
        own: KadepyError = error
        print(closed, own)


async def with_asyncio() -> None:
    first, second = AsyncSwarm(host="127.0.0.1"), AsyncSwarm(host="127.0.0.1")
    async with first, second, asyncio.timeout(20):
        packets = first.packets()
        assert_type(await second.bootstrap(first.address), int)
        assert_type(await second.ping(first.address), float)
        assert_type(await second.announce_peer(CHESS, 4000), int)
        assert_type(await first.get_peers(CHESS), list[Peer])
        async for peer in first.iter_peers(CHESS):
            assert_type(peer, Peer)
        async with first.join(CHESS) as membership:
            assert_type(membership, AsyncMembership)
            async for peer in membership:
                assert_type(peer, Peer)
                break
        async for packet in packets:
            assert_type(packet, Packet)
            break


def simulated() -> None:
    simulation = Simulation(20, seed=1)
    assert_type(simulation.lookups(5), Report)


if __name__ == "__main__":
    with_threads()
    asyncio.run(with_asyncio())
    simulated()
    assert_type(kadepy.xor_distance(CHESS, CHESS), bytes)
