"""`external_address`: what a node among local nodes knows of it."""

from __future__ import annotations

from collections.abc import Callable

from kadepy import AsyncSwarm, Swarm


def test_a_node_among_local_nodes_has_no_external_address(
    make_network: Callable[[int], list[Swarm]],
) -> None:
    for swarm in make_network(4):
        swarm.find_node(swarm.id)
        assert swarm.external_address is None
        assert swarm.external_addresses == []


def test_a_closed_node_and_one_on_asyncio_answer_too() -> None:
    with Swarm(host="127.0.0.1") as swarm:
        pass
    assert swarm.external_address is None
    swarm = AsyncSwarm(host="127.0.0.1")
    assert swarm.external_address is None
    swarm._node.close()
