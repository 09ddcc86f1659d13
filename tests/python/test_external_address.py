"""`external_address`: what a node among local nodes knows of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from kadepy import AsyncSwarm, Swarm


def test_a_node_among_local_nodes_has_no_external_address(
    make_network: Callable[[int], list[Swarm]],
) -> None:
    for swarm in make_network(4):
        swarm.find_node(swarm.id)
        assert swarm.external_address is None
        assert swarm.external_addresses == []


def test_a_closed_node_answers_too() -> None:
    with Swarm(host="127.0.0.1") as swarm:
        pass
    assert swarm.external_address is None


def test_a_node_on_asyncio_has_the_same_properties() -> None:
    async def main() -> None:
        async with AsyncSwarm(host="127.0.0.1") as swarm:
            assert (swarm.external_address, swarm.external_addresses) == (None, [])

    asyncio.run(main())
