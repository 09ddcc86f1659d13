"""Nodes of both address families on one port, among nodes of one."""

from __future__ import annotations

import errno
import queue
import socket
import sys
from collections.abc import Callable

import pytest

from conftest import DEADLINE, Connected
from kadepy import Peer, Swarm, topic

TOPIC = topic("families")

pytestmark = pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")

Make = Callable[..., Swarm]


def test_everybody_finds_what_was_announced_in_the_families_that_it_has(make_swarm: Make) -> None:
    both = make_swarm(host="::")
    sixes = [make_swarm(host="::1", bootstrap=[("::1", both.port)]) for _ in range(31)]
    four = make_swarm(host="127.0.0.1", bootstrap=[("127.0.0.1", both.port)])
    for node in (*sixes, four):
        node.find_node(node.id)
    assert sixes[0].announce_peer(TOPIC, 6_000) == 20
    assert four.announce_peer(TOPIC, 4_000) == 1
    assert both.announce_peer(TOPIC, 5_000) >= 20
    in_six, in_four = {Peer("::1", 6_000), Peer("::1", 5_000)}, {Peer("127.0.0.1", 4_000)}
    for node in sixes:
        found = node.get_peers(TOPIC)
        assert (set(found), len(found)) == (in_six, 2)
    # It stores what it announced itself, as nobody else does in this family.
    found = four.get_peers(TOPIC)
    assert (set(found), len(found)) == (in_four | {Peer("127.0.0.1", 5_000)}, 2)
    found = both.get_peers(TOPIC)
    assert set(found) >= in_six | in_four
    assert len(found) == len(set(found))


def test_lookups_are_exact_over_both_families(make_swarm: Make) -> None:
    both = [make_swarm(host="::") for _ in range(8)]
    contact = [f"127.0.0.1:{both[0].port}", f"[::1]:{both[0].port}"]
    sixes = [make_swarm(host="::1", bootstrap=contact[1:]) for _ in range(16)]
    fours = [make_swarm(host="127.0.0.1", bootstrap=contact[:1]) for _ in range(16)]
    for node in both[1:]:
        node.bootstrap(contact)
    for node in (*both, *sixes, *fours):
        node.find_node(node.id)

    def nearest(nodes: list[Swarm], asker: Swarm) -> list[bytes]:
        target = int.from_bytes(TOPIC)
        ids = [node.id for node in nodes if node is not asker]
        return sorted(ids, key=lambda node: int.from_bytes(node) ^ target)[:20]

    for asker, reached in ((both[3], both + sixes + fours), (sixes[3], both + sixes)):
        assert [node.id for node in asker.find_node(TOPIC)] == nearest(reached, asker)


def test_an_ipv4_address_shows_as_such(make_swarm: Make) -> None:
    both, four = make_swarm(host="::"), make_swarm(host="127.0.0.1")
    packets: queue.SimpleQueue[tuple[object, ...]] = queue.SimpleQueue()
    both.set_callback(lambda *packet: packets.put(packet))
    four.send("127.0.0.1", both.port, 20, b"hello")
    assert packets.get(timeout=DEADLINE)[1:] == (20, "127.0.0.1", four.port, b"hello")
    assert both.ping(four.address) > 0
    assert four.bootstrap("127.0.0.1", both.port) == 1
    assert [node[1:] for node in both.nodes()] == [four.address]
    assert (both.host, both.address) == ("::", ("::", both.port))


def test_a_name_with_an_address_in_each_family_is_asked_at_both(make_swarm: Make) -> None:
    addresses = {
        entry[4][0] for entry in socket.getaddrinfo("localhost", 1, type=socket.SOCK_DGRAM)
    }
    if addresses != {"127.0.0.1", "::1"}:
        pytest.skip(f"localhost is {addresses} here")
    first, second = make_swarm(host="::"), make_swarm(host="::")
    assert second.bootstrap(f"localhost:{first.port}") == 2
    assert {node.ip for node in second.nodes()} == addresses


def test_a_port_that_is_taken_in_one_family_is_taken(make_swarm: Make) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("0.0.0.0", 0))
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot bind .*{port}") as caught:
            make_swarm(port=port, host="::")
        assert caught.value.errno == errno.EADDRINUSE
        # What was bound in the other family is free again.
        assert make_swarm(port=port, host="::1").port == port


def test_a_port_that_the_system_chooses_is_free_in_both_families(make_swarm: Make) -> None:
    for _ in range(50):
        port = make_swarm(host="::").port
        for host in ("0.0.0.0", "::"):
            with pytest.raises(OSError, match="in use"):
                make_swarm(port=port, host=host)


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's namespaces")
def test_where_ipv6_is_switched_off_ipv4_works(connected: Connected) -> None:
    child = connected(
        [["10.77.0.1/24"]],
        """
hosts[0].start('''
with open("/proc/sys/net/ipv6/conf/all/disable_ipv6", "w") as file:
    file.write("1")
from kadepy import Swarm, topic
with Swarm(host="::") as first, Swarm(host="::") as second:
    print(second.bootstrap(f"127.0.0.1:{first.port}"))
    print(second.announce_peer(topic("t"), 5000), first.get_peers(topic("t")))
''')
print(hosts[0].line())
print(hosts[0].line())
""",
    )
    assert child.line() == "1"
    assert child.line() == "1 [Peer(ip='127.0.0.1', port=5000)]"
