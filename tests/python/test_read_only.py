"""`read_only`: who is listed, and what a node says of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from conftest import wait_until
from kadepy import AsyncSwarm, Swarm

TOPIC = bytes(range(32))
Make = Callable[..., Swarm]


def test_a_read_only_node_is_not_listed_and_looks_up_and_announces(make_swarm: Make) -> None:
    first, second = make_swarm(), make_swarm()
    shy = make_swarm(read_only=True)
    second.bootstrap(first.address)
    wait_until(first.nodes)
    assert shy.bootstrap(first.address) == 2
    assert shy.announce_peer(TOPIC, 4000) == 2
    assert [peer.port for peer in second.get_peers(TOPIC)] == [4000]
    assert [peer.port for peer in shy.get_peers(TOPIC)] == [4000]
    second.find_node(shy.id)
    for swarm in (first, second):
        assert shy.id not in [node.id for node in swarm.nodes()]
        # Asking it is no reason to list it either.
        swarm.ping(shy.address)
        assert shy.id not in [node.id for node in swarm.nodes()]


@pytest.mark.parametrize("read_only", [None, False])
def test_local_nodes_list_every_other_node(make_swarm: Make, read_only: bool | None) -> None:
    first = make_swarm()
    second = make_swarm(read_only=read_only)
    second.bootstrap(first.address)
    wait_until(lambda: [node.id for node in first.nodes()] == [second.id])
    assert (second.stats().reachable, second.stats().read_only) == (None, False)


def test_stats_and_repr_say_that_a_node_is_read_only(make_swarm: Make) -> None:
    shy = make_swarm(read_only=True, node_id=TOPIC)
    assert shy.stats().read_only
    assert repr(shy) == f"<Swarm 00010203... on 127.0.0.1:{shy.port} read-only>"
    shy.close()
    assert repr(shy) == f"<Swarm 00010203... on 127.0.0.1:{shy.port} read-only closed>"


@pytest.mark.parametrize("make", [Swarm, AsyncSwarm])
@pytest.mark.parametrize("read_only", [0, 1, "yes", []])
def test_other_values_are_refused(make: Callable[..., object], read_only: object) -> None:
    with pytest.raises(TypeError, match="read_only must be True, False or None"):
        make(host="127.0.0.1", read_only=read_only)


def test_a_node_on_every_address_starts_whatever_the_routes_of_its_host() -> None:
    for host in ("0.0.0.0", "::"):
        try:
            swarm = Swarm(host=host)
        except OSError:
            continue
        with swarm:
            assert swarm.stats().reachable is None
            assert swarm.external_address is None
