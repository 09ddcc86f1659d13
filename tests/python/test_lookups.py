"""What each method asks, returns and raises among a few nodes; bad arguments and the main job as a
whole are left to test_arguments.py and test_main_job.py."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

import wire
from conftest import RawNode, ScriptedNode, wait_until
from kadepy import BootstrapError, Config, KadepyError, Node, Peer, RequestTimeout, Stats, Swarm
from wire import Tag, Type

TOPIC = bytes(range(32))
Make = Callable[..., Swarm]
MakeNetwork = Callable[[int], list[Swarm]]
MakeNode = Callable[..., ScriptedNode]


# --- ping -------------------------------------------------------------------------------------


def test_ping_gives_seconds(swarm: Swarm, node: ScriptedNode) -> None:
    seconds = swarm.ping(*node.address)
    assert type(seconds) is float
    assert 0 < seconds < 2
    assert swarm.nodes() == [Node(*node.listed)]


@pytest.mark.parametrize("timeout", [0, 0.05, None])
def test_ping_times_out(make_swarm: Make, raw: RawNode, timeout: float | None) -> None:
    swarm = make_swarm(config=Config(request_timeout=0.1))
    with pytest.raises(RequestTimeout, match=str(raw.port)) as told:
        swarm.ping(*raw.address, timeout=timeout)
    assert isinstance(told.value, TimeoutError)
    assert isinstance(told.value, KadepyError)


def test_nobody_listening_is_a_timeout(make_swarm: Make, raw: RawNode) -> None:
    swarm = make_swarm()
    raw.close()
    with pytest.raises(RequestTimeout):
        swarm.ping(*raw.address, timeout=0.1)


def test_peers_nodes_and_pairs_stand_for_ip_and_port(
    swarm: Swarm, node: ScriptedNode, raw: RawNode
) -> None:
    for at in (Peer(*node.address), Node(*node.listed), node.address):
        assert swarm.ping(at) > 0
        assert swarm.bootstrap(at) == 1
    for to in (Peer(*raw.address), Node(*raw.listed), raw.address):
        swarm.send(to, 20, b"hi")
        assert raw.receive() == wire.encode(20, swarm.id, b"hi")
        swarm.lookup_from(to, TOPIC)
        assert wire.decode(raw.receive()).type == Type.GET_PEERS
    swarm.announce_to(Peer(*node.address), TOPIC, 80)
    wait_until(lambda: node.asked_for(Type.ANNOUNCE_PEER))


def test_nodes_and_peers_are_named_tuples(swarm: Swarm, node: ScriptedNode) -> None:
    swarm.ping(*node.address)
    (listed,) = swarm.nodes()
    assert (listed.id, listed.ip, listed.port) == listed == node.listed
    peer = Peer(*node.address)
    assert (peer.ip, peer.port) == peer
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(peer)
        assert sock.getpeername() == node.address


# --- bootstrap --------------------------------------------------------------------------------


def test_bootstrap_gives_the_number_of_contacts(make_network: MakeNetwork) -> None:
    first, *_, last = make_network(6)
    count = last.bootstrap(first.address)
    assert count == len(last.nodes()) == last.stats().contacts == 5


@pytest.mark.parametrize(
    "contact",
    [
        lambda ip, port: f"{ip}:{port}",
        lambda ip, port: f"localhost:{port}",
        lambda ip, port: (ip, port),
        lambda ip, port: ("localhost", port),
        lambda ip, port: [f"{ip}:{port}"],
        lambda ip, port: iter([(ip, port)]),
        lambda ip, port: {Peer(ip, port)},
    ],
)
def test_contacts_come_in_many_forms(
    swarm: Swarm, node: ScriptedNode, contact: Callable[[str, int], object]
) -> None:
    assert swarm.bootstrap(contact(*node.address)) == 1  # type: ignore[arg-type]


def test_one_live_contact_is_enough(swarm: Swarm, raw: RawNode, node: ScriptedNode) -> None:
    assert swarm.bootstrap([raw.address, node.address]) == 1


def test_bootstrap_names_each_contact_that_did_not_answer(
    make_swarm: Make, make_raw: Callable[..., RawNode]
) -> None:
    swarm = make_swarm(config=Config(request_timeout=0.1))
    silent = [make_raw(), make_raw()]
    with pytest.raises(BootstrapError) as told:
        swarm.bootstrap(raw.address for raw in silent)
    assert isinstance(told.value, ConnectionError)
    assert isinstance(told.value, KadepyError)
    for raw in silent:
        assert f"127.0.0.1:{raw.port}" in str(told.value)


def test_the_constructor_joins_behind_and_lookups_wait(
    make_swarm: Make, make_network: MakeNetwork
) -> None:
    first, second = make_network(2)
    assert second.announce_peer(TOPIC, 80) == 1
    late = make_swarm(bootstrap=[first.address])
    assert late.get_peers(TOPIC) == [Peer("127.0.0.1", 80)]


def test_the_constructor_keeps_trying(make_swarm: Make, raw: RawNode) -> None:
    config = Config(request_timeout=0.2)
    swarm = make_swarm(bootstrap=f"127.0.0.1:{raw.port}", config=config)
    with ThreadPoolExecutor() as pool:
        found = pool.submit(swarm.find_node, TOPIC, timeout=15.0)
        raw.receive()
        raw.close()
        later = make_swarm(raw.port)
        assert found.result() == [Node(later.id, *later.address)]


def test_waiting_for_the_join_ends_at_the_timeout(make_swarm: Make, raw: RawNode) -> None:
    swarm = make_swarm(bootstrap=[raw.address])
    started = time.monotonic()
    assert swarm.get_peers(TOPIC, timeout=0.2) == []
    assert time.monotonic() - started >= 0.2


# --- lookups ----------------------------------------------------------------------------------


def test_find_node_gives_the_closest_first(make_network: MakeNetwork) -> None:
    asker, *others = make_network(8)
    nodes = [Node(other.id, *other.address) for other in others]
    assert asker.find_node(TOPIC) == sorted(nodes, key=lambda n: wire.distance(n.id, TOPIC))
    assert asker.find_node(others[3].id)[0] == nodes[3]


def test_find_node_gives_only_who_answered(
    make_swarm: Make, make_node: MakeNode, raw: RawNode
) -> None:
    swarm, node = make_swarm(config=Config(request_timeout=0.2)), make_node()
    node.lists = [raw.listed]
    swarm.ping(*node.address)
    assert swarm.find_node(TOPIC, timeout=None) == [Node(*node.listed)]


def test_a_lookup_that_reaches_its_timeout_gives_what_it_has(
    make_swarm: Make, make_node: MakeNode, raw: RawNode
) -> None:
    swarm, node = make_swarm(config=Config(request_timeout=60)), make_node()
    node.lists = [raw.listed]
    node.holds = [("127.0.0.1", 80)]
    swarm.ping(*node.address)
    assert swarm.find_node(TOPIC, timeout=0.3) == [Node(*node.listed)]
    node.holds = []
    holder = make_node()
    holder.holds = [("127.0.0.1", 80)]
    node.lists += [holder.listed]
    assert swarm.get_peers(TOPIC, timeout=0.3) == [Peer("127.0.0.1", 80)]


def test_get_peers_asks_all_the_closest_and_gives_no_duplicates(
    swarm: Swarm, make_node: MakeNode
) -> None:
    nodes = [make_node() for _ in range(5)]
    for n, node in enumerate(nodes):
        node.holds = [("127.0.0.1", 80), ("127.0.0.1", 1000 + n)]
        swarm.ping(*node.address)
    peers = swarm.get_peers(TOPIC)
    assert sorted(peers) == [Peer("127.0.0.1", port) for port in (80, *range(1000, 1005))]
    assert all(type(peer) is Peer for peer in peers)


def test_get_peers_follows_the_nodes_beside_peers(swarm: Swarm, make_node: MakeNode) -> None:
    near, far = make_node(), make_node()
    near.scripts[Type.GET_PEERS] = lambda ask: [
        near.reply(
            ask,
            Type.PEERS,
            wire.peers(TOPIC, [("127.0.0.1", 80)]),
            (Tag.TOKEN, b"t"),
            (Tag.NODES4, wire.node(*far.listed)),
        )
    ]
    far.holds = [("127.0.0.1", 81)]
    swarm.ping(*near.address)
    assert sorted(swarm.get_peers(TOPIC)) == [Peer("127.0.0.1", 80), Peer("127.0.0.1", 81)]


def test_get_peers_includes_what_the_node_itself_stores(
    swarm: Swarm, raw: RawNode, node: ScriptedNode
) -> None:
    swarm.ping(*node.address)
    raw.send(swarm, wire.encode(Type.ANNOUNCE_PEER, raw.id, wire.announce(TOPIC, 80)))
    raw.round_trip(swarm)
    assert swarm.get_peers(TOPIC) == [Peer("127.0.0.1", 80)]


class Holding:
    """Keeps back the answers of `node` to GET_PEERS until `release`."""

    def __init__(self, node: ScriptedNode) -> None:
        self.node = node
        self._kept: list[bytes] = []
        self._released = threading.Event()
        node.scripts[Type.GET_PEERS] = self._keep

    def release(self, to: Swarm) -> None:
        self._released.set()
        for reply in self._kept:
            self.node.send(to, reply)

    def _keep(self, ask: wire.Packet) -> list[bytes]:
        replies = list(self.node.honest(ask))
        if self._released.is_set():
            return replies
        self._kept += replies
        return []


def test_iter_peers_gives_each_as_it_arrives_and_once(
    make_swarm: Make, make_node: MakeNode
) -> None:
    swarm = make_swarm(config=Config(request_timeout=15))
    quick, slow = make_node(), make_node()
    quick.holds = [("127.0.0.1", 80)]
    slow.holds = [("127.0.0.1", 80), ("127.0.0.1", 81)]
    for node in (quick, slow):
        swarm.ping(*node.address)
    holding = Holding(slow)
    peers = swarm.iter_peers(TOPIC, timeout=15)
    assert iter(peers) is peers
    assert next(peers) == Peer("127.0.0.1", 80)
    holding.release(swarm)
    assert list(peers) == [Peer("127.0.0.1", 81)]


def test_leaving_iter_peers_ends_its_lookup(make_swarm: Make, make_node: MakeNode) -> None:
    # The silent one holds it up for 20 seconds.
    swarm = make_swarm(config=Config(request_timeout=60, short_wait_min=10, short_wait_max=60))
    quick, slow = make_node(), make_node()
    quick.holds = [("127.0.0.1", 80)]
    for node in (quick, slow):
        swarm.ping(*node.address)
    Holding(slow)
    for peer in swarm.iter_peers(TOPIC, timeout=60):
        assert peer == Peer("127.0.0.1", 80)
        assert swarm.stats().lookups_active == 1
        break
    assert swarm.stats().lookups_active == 0


def test_announce_counts_confirmations(make_swarm: Make, make_node: MakeNode) -> None:
    swarm = make_swarm(config=Config(request_timeout=0.2))
    confirms, refuses, silent = make_node(), make_node(), make_node()
    refuses.scripts[Type.ANNOUNCE_PEER] = lambda ask: [
        refuses.reply(ask, Type.ERROR, b"\x02\x04full")
    ]
    silent.scripts[Type.ANNOUNCE_PEER] = lambda ask: []
    for node in (confirms, refuses, silent):
        swarm.ping(*node.address)
    assert swarm.announce_peer(TOPIC) == 1
    for node in (confirms, refuses, silent):
        assert node.asked_for(Type.ANNOUNCE_PEER)


def test_announce_is_announce_peer() -> None:
    assert Swarm.announce is Swarm.announce_peer


@pytest.mark.parametrize("port", [None, 80])
def test_what_is_announced_is_found(make_network: MakeNetwork, port: int | None) -> None:
    first, *others, announcer = make_network(6)
    assert announcer.announce_peer(TOPIC, port) == 5
    expected = [Peer("127.0.0.1", port or announcer.port)]
    assert all(swarm.get_peers(TOPIC) == expected for swarm in (first, *others, announcer))
    assert (first.stats().topics, first.stats().records) == (1, 1)


def test_on_an_empty_table_lookups_end_at_once(swarm: Swarm) -> None:
    started = time.monotonic()
    assert swarm.find_node(TOPIC, timeout=60) == []
    assert swarm.get_peers(TOPIC, timeout=60) == []
    assert list(swarm.iter_peers(TOPIC, timeout=60)) == []
    assert swarm.announce_peer(TOPIC, timeout=60) == 0
    assert swarm.find_node_iterative(TOPIC, timeout=60) == []
    assert time.monotonic() - started < 30


def test_timeout_0_is_at_once(make_swarm: Make, node: ScriptedNode) -> None:
    swarm = make_swarm(config=Config(request_timeout=60))
    swarm.ping(*node.address)
    node.scripts = dict.fromkeys(Type, lambda ask: [])
    started = time.monotonic()
    assert swarm.find_node(TOPIC, timeout=0) == []
    assert swarm.get_peers(TOPIC, timeout=0) == []
    assert list(swarm.iter_peers(TOPIC, timeout=0)) == []
    assert swarm.announce_peer(TOPIC, timeout=0) == 0
    with pytest.raises(BootstrapError):
        swarm.bootstrap(node.address, timeout=0)
    assert time.monotonic() - started < 30


# --- what a node tells of itself --------------------------------------------------------------


def test_properties(make_swarm: Make, raw: RawNode) -> None:
    port = raw.port
    raw.close()
    swarm = make_swarm(port, node_id=TOPIC)
    assert (swarm.id, swarm.port, swarm.host) == (TOPIC, port, "127.0.0.1")
    assert swarm.address == ("127.0.0.1", port)
    assert swarm.closed is False
    assert len({make_swarm().id for _ in range(10)}) == 10


def test_an_ipv6_node_serves_ipv6(make_swarm: Make) -> None:
    try:
        first, second = make_swarm(host="::1"), make_swarm(host="::1")
    except OSError:
        pytest.skip("no IPv6 here")
    assert second.bootstrap(f"[::1]:{first.port}") == 1
    assert second.announce_peer(TOPIC) == 1
    assert second.get_peers(TOPIC) == [Peer("::1", second.port)]
    assert second.nodes() == [Node(first.id, "::1", first.port)]


PACKETS = [
    "PING",
    "PONG",
    "FIND_NODE",
    "FOUND_NODES",
    "ANNOUNCE_PEER",
    "GET_PEERS",
    "PEERS",
    "ANNOUNCED",
    "ERROR",
    "APPLICATION",
]
DROPPED = [
    "short",
    "oversize",
    "unopened",
    "unknown_type",
    "malformed",
    "sender_id",
    "source",
    "unsolicited",
    "rate",
    "token",
    "storage",
    "candidates",
    "busy",
    "send",
    "receive",
]


def test_stats_start_at_zero(swarm: Swarm) -> None:
    stats = swarm.stats()
    assert isinstance(stats, Stats)
    assert stats.packets_in == stats.packets_out == dict.fromkeys(PACKETS, 0)
    assert stats.dropped == dict.fromkeys(DROPPED, 0)
    for field in [
        "bytes_in",
        "bytes_out",
        "requests",
        "timeouts",
        "lookups",
        "lookups_active",
        "contacts",
        "topics",
        "records",
        "callback_queue",
        "callback_dropped",
        "callback_errors",
    ]:
        assert (field, getattr(stats, field)) == (field, 0)
    assert stats.rtt is None
    assert 0 <= stats.uptime < 20


def test_stats_count(swarm: Swarm, raw: RawNode, node: ScriptedNode) -> None:
    swarm.ping(*node.address)
    swarm.find_node(TOPIC)
    swarm.send(*raw.address, 20, b"hi")
    raw.receive()
    raw.ask(swarm, wire.encode(Type.PING, raw.id))
    raw.send(swarm, wire.encode(30, raw.id, b"hello"))
    raw.send(swarm, wire.encode(Type.ANNOUNCE_PEER, raw.id, wire.announce(TOPIC, 80)))
    wait_until(lambda: swarm.stats().records == 1)
    stats = swarm.stats()
    ins, outs = stats.packets_in, stats.packets_out
    assert (ins["PING"], ins["PONG"], ins["FOUND_NODES"]) == (1, 1, 1)
    assert (ins["APPLICATION"], ins["ANNOUNCE_PEER"]) == (1, 1)
    assert (outs["PONG"], outs["FIND_NODE"], outs["APPLICATION"]) == (1, 1, 1)
    assert stats.bytes_in >= 33 + 38 + 67
    assert stats.bytes_out >= 47 + 416 + 33 + 35
    assert stats.requests >= 2
    assert stats.rtt is not None
    assert 0 < stats.rtt < 2
    assert (stats.lookups, stats.lookups_active, stats.topics) == (1, 0, 1)
    assert stats.contacts == 1


def test_stats_count_timeouts(make_swarm: Make, raw: RawNode) -> None:
    swarm = make_swarm(config=Config(request_timeout=0.05))
    with pytest.raises(RequestTimeout):
        swarm.ping(*raw.address, timeout=None)
    stats = swarm.stats()
    assert stats.timeouts == stats.requests > 0
    assert stats.rtt is None


def test_dump_table_prints_the_contacts(
    swarm: Swarm, node: ScriptedNode, capfd: pytest.CaptureFixture[str]
) -> None:
    swarm.ping(*node.address)
    assert capfd.readouterr().out == ""
    swarm.dump_table()
    printed = capfd.readouterr().out
    assert str(node.port) in printed
    assert node.id.hex()[:8] in printed


def test_a_name_that_does_not_resolve_holds_up_no_address(swarm: Swarm, node: ScriptedNode) -> None:
    assert swarm.bootstrap([("nobody.invalid", 4000), node.address]) == 1
    with pytest.raises(BootstrapError, match=r"nobody\.invalid:4000 \(the name does not resolve"):
        swarm.bootstrap("nobody.invalid:4000")


def test_threads_share_an_iterator(make_network: Callable[[int], list[Swarm]]) -> None:
    first, *others = make_network(8)
    for other in others:
        other.announce_peer(TOPIC)
    peers = first.iter_peers(TOPIC)
    with ThreadPoolExecutor(4) as pool:
        found = [peer for part in pool.map(lambda _: list(peers), range(4)) for peer in part]
    assert sorted(found) == sorted(other.address for other in others)


def test_a_node_logs_that_it_has_joined_or_whom_it_could_not_reach(
    make_swarm: Callable[..., Swarm],
    node: ScriptedNode,
    raw: RawNode,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "kadepy")
    joined = make_swarm(bootstrap=[node.address])
    alone = make_swarm(bootstrap=["127.0.0.1:" + str(raw.port)])
    wait_until(lambda: len(caplog.messages) >= 2)
    assert f"node on port {joined.port}: joined; contacts: 1" in caplog.messages
    warnings = [line for line in caplog.messages if f"node on port {alone.port}:" in line]
    assert (
        f"no bootstrap contact answers: 127.0.0.1:{raw.port} (no answer); next try in 1s"
        in warnings[0]
    )


def test_every_interface_is_no_contact(swarm: Swarm) -> None:
    with pytest.raises(ValueError, match="every interface is none"):
        swarm.bootstrap(("0.0.0.0", 4000))


def test_names_are_asked_beside_an_address_that_is_silent(
    swarm: Swarm, node: ScriptedNode, raw: RawNode
) -> None:
    silent = ("127.0.0.1", raw.port)
    assert swarm.bootstrap([silent, ("localhost", node.port)], timeout=4) == 1
