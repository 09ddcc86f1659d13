"""Nodes that are started anew, on real sockets: everybody finds everybody soon. In how many ways a
node can start anew, and in which networks, is left to `tests/engine/restarts.rs`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import wait_until
from kadepy import Membership, Swarm

TOPIC = bytes(range(32))
HERE = "127.0.0.1"
Make = Callable[..., Swarm]


def test_two_of_three_members_start_anew_one_after_the_other(
    make_swarm: Make, tmp_path: Path
) -> None:
    nodes = [make_swarm(state_path=str(tmp_path / str(at))) for at in range(3)]
    ports = [node.port for node in nodes]

    def seeds(at: int) -> list[tuple[str, int]]:
        return [(HERE, port) for port in ports if port != ports[at]]

    for at, node in enumerate(nodes):
        node.bootstrap(seeds(at))
    members: list[Membership] = [node.join(TOPIC) for node in nodes]
    for at in range(2):
        nodes[at].close()
        nodes[at] = make_swarm(
            port=ports[at], bootstrap=seeds(at), state_path=str(tmp_path / str(at))
        )
        members[at] = nodes[at].join(TOPIC)

    def all_meet(at: int) -> bool:
        return {peer.port for peer in members[at].peers} == set(ports) - {ports[at]}

    def finds_all(at: int) -> bool:
        return {peer.port for peer in nodes[at].get_peers(TOPIC)} == set(ports)

    wait_until(lambda: all(all_meet(at) for at in range(3)))
    wait_until(lambda: all(finds_all(at) for at in range(3)))


@pytest.mark.parametrize("keeps_port", [True, False])
def test_a_node_with_its_former_id_is_told_and_found(
    make_swarm: Make, tmp_path: Path, keeps_port: bool
) -> None:
    first = make_swarm()
    state = str(tmp_path / "state")
    node = make_swarm(bootstrap=[first.address], state_path=state)
    node.find_node(node.id)
    assert first.announce_peer(TOPIC, 4000) == 1
    port = node.port
    node.close()
    again = make_swarm(port=port if keeps_port else 0, bootstrap=[first.address], state_path=state)
    again.find_node(again.id)
    wait_until(lambda: first.announce_peer(TOPIC, 4000) == 1)
    wait_until(lambda: [found.port for found in first.find_node(again.id)] == [again.port])
    assert [peer.port for peer in again.get_peers(TOPIC)] == [4000]
