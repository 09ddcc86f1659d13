"""Topics with more peers than fit into one answer: every way of looking them up gives them all."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from conftest import Run, wait_until
from kadepy import AsyncSwarm, Config, Peer, Swarm

TOPIC = bytes(range(32))
HERE = "127.0.0.1"
PEERS = [Peer(HERE, 10_000 + n) for n in range(250)]
Make = Callable[..., Swarm]


@pytest.fixture(params=[2, 6])
def crowded(request: pytest.FixtureRequest, make_network: Callable[[int], list[Swarm]]) -> Swarm:
    """A node of a network of so many, in which another has announced 250 peers."""
    swarms = make_network(request.param)
    for swarm in swarms:
        swarm.find_node(swarm.id)
    for peer in PEERS:
        assert swarms[1].announce_peer(TOPIC, peer.port) == request.param - 1
    return swarms[0]


def test_get_peers_and_iter_peers(crowded: Swarm, make_swarm: Make) -> None:
    newcomer = make_swarm()
    newcomer.bootstrap(crowded.address)
    for _ in range(3):
        assert sorted(newcomer.get_peers(TOPIC)) == PEERS
    assert sorted(newcomer.iter_peers(TOPIC)) == PEERS


def test_a_membership(crowded: Swarm, make_swarm: Make) -> None:
    newcomer = make_swarm()
    newcomer.bootstrap(crowded.address)
    with newcomer.join(TOPIC) as membership:
        wait_until(lambda: len(membership.peers) == len(PEERS))
        assert sorted(membership.peers) == PEERS


def test_on_asyncio(run: Run, crowded: Swarm) -> None:
    async def main() -> None:
        async with AsyncSwarm(host=HERE) as newcomer:
            await newcomer.bootstrap(crowded.address)
            assert sorted(await newcomer.get_peers(TOPIC)) == PEERS
            assert sorted([peer async for peer in newcomer.iter_peers(TOPIC)]) == PEERS

    run(main)


@pytest.mark.parametrize("crowded", [2], indirect=True)
def test_a_lookup_that_stops_at_its_cap_says_so(
    crowded: Swarm, make_swarm: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "kadepy")
    capped = make_swarm(config=Config(lookup_peers=100))
    capped.bootstrap(crowded.address)
    found = capped.get_peers(TOPIC)
    assert len(found) == 100
    assert set(found) < set(PEERS)
    wait_until(lambda: caplog.messages)
    assert "stopped at 100 peers of topic 00010203…" in caplog.text
    assert "raise Config.lookup_peers" in caplog.text
