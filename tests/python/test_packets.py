"""What must hold against bad and hostile packets, as bytes on raw sockets; what needs virtual time
or addresses that are not local is left to the Rust tests."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable

import pytest

import wire
from conftest import Child, RawNode, ScriptedNode, dropped_since, wait_until
from kadepy import Config, Node, Peer, RequestTimeout, Swarm
from wire import Tag, Type

ID = b"\x77" * 32
TOPIC = bytes(range(32))
TXID = (Tag.TXID, b"\xa1" * 8)
MAX_DATAGRAM = 65_507 if sys.platform != "darwin" else 9_216

Make = Callable[..., Swarm]
MakeNode = Callable[..., ScriptedNode]


def ping(*fields: tuple[int, bytes], after: bytes = b"") -> bytes:
    return wire.encode(Type.PING, ID, fields=fields) + after


REFUSED = {
    "0 bytes": (b"", "short"),
    "1 byte": (b"\0", "short"),
    "32 bytes": (b"\0" + ID[1:], "short"),
    "1,281 bytes": (wire.encode(Type.PING, ID, bytes(1_281 - 33)), "oversize"),
    "the largest datagram": (wire.encode(20, ID, bytes(MAX_DATAGRAM - 33)), "oversize"),
    **{f"type {kind}": (wire.encode(kind, ID), "unknown_type") for kind in range(9, 16)},
    **{
        f"{kind.name} from id {name}": (wire.encode(kind, sender, body, [TXID]), "sender_id")
        for name, sender in {"zero": bytes(32), "all FF": b"\xff" * 32}.items()
        for kind, body in {
            Type.PING: b"",
            Type.FIND_NODE: TOPIC,
            Type.ANNOUNCE_PEER: wire.announce(TOPIC, 80),
            Type.GET_PEERS: TOPIC,
        }.items()
    },
    "FIND_NODE with 31 bytes": (wire.encode(Type.FIND_NODE, ID, TOPIC[1:]), "malformed"),
    "GET_PEERS with 31 bytes": (wire.encode(Type.GET_PEERS, ID, TOPIC[1:]), "malformed"),
    "ANNOUNCE_PEER with 33 bytes": (wire.encode(Type.ANNOUNCE_PEER, ID, bytes(33)), "malformed"),
    "ANNOUNCE_PEER with port 0": (
        wire.encode(Type.ANNOUNCE_PEER, ID, wire.announce(TOPIC, 0)),
        "malformed",
    ),
    "ANNOUNCED with 31 bytes": (wire.encode(Type.ANNOUNCED, ID, TOPIC[1:]), "malformed"),
    "ERROR without length": (wire.encode(Type.ERROR, ID, b"\x01"), "malformed"),
    "ERROR with length above its body": (wire.encode(Type.ERROR, ID, b"\x01\x03no"), "malformed"),
    "FOUND_NODES without count": (wire.encode(Type.FOUND_NODES, ID), "malformed"),
    "FOUND_NODES with count above its body": (
        wire.encode(Type.FOUND_NODES, ID, b"\x02" + wire.node(ID, "127.0.0.1", 4000)),
        "malformed",
    ),
    "PEERS without count": (wire.encode(Type.PEERS, ID, TOPIC), "malformed"),
    "PEERS with count above its body": (
        wire.encode(Type.PEERS, ID, TOPIC + b"\x02" + wire.peer("127.0.0.1", 4000)),
        "malformed",
    ),
    "trailer: length past the end": (ping(after=b"KP\x01\x01\x00\x08\xa1"), "malformed"),
    "trailer: ends in a tag": (ping(TXID, after=b"\x08"), "malformed"),
    "trailer: ends in a length": (ping(TXID, after=b"\x08\x00"), "malformed"),
    "trailer: a tag twice": (ping(TXID, TXID), "malformed"),
    "trailer: an unknown tag twice": (ping(TXID, (99, b"a"), (99, b"b")), "malformed"),
    "trailer: the same tag 255 times": (ping(*[(Tag.PADDING, b"")] * 255), "malformed"),
    "trailer: TXID of 7 bytes": (ping((Tag.TXID, bytes(7))), "malformed"),
    "trailer: TXID of 9 bytes": (ping((Tag.TXID, bytes(9))), "malformed"),
    "trailer: empty token": (ping(TXID, (Tag.TOKEN, b"")), "malformed"),
    "trailer: token of 33 bytes": (ping(TXID, (Tag.TOKEN, bytes(33))), "malformed"),
    "trailer: NODES4 of 37 bytes": (ping(TXID, (Tag.NODES4, bytes(37))), "malformed"),
    "trailer: NODES6 of 49 bytes": (ping(TXID, (Tag.NODES6, bytes(49))), "malformed"),
    "trailer: PEERS6 of 17 bytes": (ping(TXID, (Tag.PEERS6, bytes(17))), "malformed"),
    "trailer: ENDPOINT of 7 bytes": (ping(TXID, (Tag.ENDPOINT, bytes(7))), "malformed"),
    "trailer: FLAGS of 2 bytes": (ping(TXID, (Tag.FLAGS, bytes(2))), "malformed"),
    "trailer: WANT of 2 bytes": (ping(TXID, (Tag.WANT, bytes(2))), "malformed"),
    "trailer: AGENT of 17 bytes": (ping(TXID, (Tag.AGENT, b"a" * 17)), "malformed"),
    **{
        f"{kind.name} that nobody asked for, {name}": (
            wire.encode(kind, ID, body, fields),
            "unsolicited",
        )
        for name, fields in {"as v0.1": None, "with a TXID": [TXID]}.items()
        for kind, body in {
            Type.PONG: b"",
            Type.FOUND_NODES: wire.found_nodes([(ID, "127.0.0.1", 4000)]),
            Type.PEERS: wire.peers(TOPIC, [("127.0.0.1", 4000)]),
            Type.ANNOUNCED: TOPIC,
            Type.ERROR: b"\x01\x02no",
        }.items()
    },
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_packets_are_counted_and_do_nothing(
    swarm: Swarm, raw: RawNode, node: ScriptedNode, name: str
) -> None:
    datagram, counter = REFUSED[name]
    assert_refused(swarm, raw, node, datagram, counter)


def test_a_packet_that_bears_our_own_id_is_refused(
    swarm: Swarm, raw: RawNode, node: ScriptedNode
) -> None:
    assert_refused(swarm, raw, node, wire.encode(Type.PING, swarm.id), "sender_id")


def assert_refused(
    swarm: Swarm, raw: RawNode, contact: ScriptedNode, datagram: bytes, counter: str
) -> None:
    swarm.ping(*contact.address)
    before, table = swarm.stats(), swarm.nodes()
    raw.send(swarm, datagram)
    raw.expect_pong_next(swarm)
    after = swarm.stats()
    assert dropped_since(before, after) == {counter: 1}
    assert swarm.nodes() == table == [Node(*contact.listed)]
    assert (after.topics, after.records) == (0, 0)


def test_a_packet_from_our_own_address_is_refused(swarm: Swarm, raw: RawNode) -> None:
    swarm.send(*swarm.address, 20, b"to ourselves")
    wait_until(lambda: swarm.stats().dropped["source"] + swarm.stats().dropped["sender_id"] == 1)
    assert swarm.nodes() == []
    raw.expect_pong_next(swarm)


ANSWERED_AS_V01 = {
    "PING": ping()[:33],
    "PING with junk after it": ping()[:33] + b"junk",
    "PING with a cut magic": ping()[:33] + b"KP",
    "PING with the magic of a later version": ping()[:33] + b"KP\x02\x01\x00\x08" + bytes(8),
    "PING of 1,280 bytes": wire.encode(Type.PING, ID, bytes(1_280 - 33)),
    "FIND_NODE with bytes after it": wire.encode(Type.FIND_NODE, ID, TOPIC + b"more"),
    "GET_PEERS with bytes after it": wire.encode(Type.GET_PEERS, ID, TOPIC + b"more"),
}


@pytest.mark.parametrize("name", ANSWERED_AS_V01)
def test_bytes_that_are_no_trailer_are_answered_as_v01(
    swarm: Swarm, raw: RawNode, name: str
) -> None:
    reply = wire.decode(raw.ask(swarm, ANSWERED_AS_V01[name]))
    assert reply.fields is None
    assert reply.size == (33 if ANSWERED_AS_V01[name][0] == Type.PING else 34)
    assert not any(swarm.stats().dropped.values())


def test_unknown_tags_are_skipped(swarm: Swarm, raw: RawNode) -> None:
    unknown = [(tag, b"") for tag in {*range(256)} - {*Tag}]
    reply = wire.decode(raw.ask(swarm, ping(*unknown, TXID)))
    assert (reply.type, reply.txid) == (Type.PONG, TXID[1])


# --- announces --------------------------------------------------------------------------------


def announce(topic: bytes, port: int, *fields: tuple[int, bytes]) -> bytes:
    return wire.encode(Type.ANNOUNCE_PEER, ID, wire.announce(topic, port), fields or None)


def held(swarm: Swarm, raw: RawNode, topic: bytes = TOPIC) -> list[tuple[str, int]]:
    reply = wire.decode(raw.ask(swarm, wire.encode(Type.GET_PEERS, ID, topic)))
    return reply.peers if reply.type == Type.PEERS else []


def token_for(swarm: Swarm, raw: RawNode, topic: bytes) -> bytes:
    fields = wire.decode(
        raw.ask(swarm, wire.encode(Type.GET_PEERS, ID, topic, [TXID, (Tag.PADDING, bytes(350))]))
    ).fields
    assert fields is not None
    return fields[Tag.TOKEN]


@pytest.mark.parametrize("how", ["cut", "longer", "flipped", "foreign topic", "of another node"])
def test_a_token_that_is_present_must_be_right(
    make_swarm: Make, swarm: Swarm, raw: RawNode, how: str
) -> None:
    right = token_for(swarm, raw, TOPIC)
    wrong = {
        "cut": right[:-1],
        "longer": right + b"\0",
        "flipped": bytes([right[0] ^ 1]) + right[1:],
        "foreign topic": token_for(swarm, raw, bytes(reversed(TOPIC))),
        "of another node": token_for(make_swarm(), raw, TOPIC),
    }[how]
    before = swarm.stats()
    reply = wire.decode(raw.ask(swarm, announce(TOPIC, 80, TXID, (Tag.TOKEN, wrong))))
    assert (reply.type, reply.body[0], reply.txid) == (Type.ERROR, 1, TXID[1])
    assert dropped_since(before, swarm.stats()) == {"token": 1}
    assert held(swarm, raw) == []


def test_a_bad_token_without_txid_is_not_answered(
    swarm: Swarm, raw: RawNode, node: ScriptedNode
) -> None:
    assert_refused(swarm, raw, node, announce(TOPIC, 80, (Tag.TOKEN, b"wrong")), "token")


def test_an_announce_with_the_right_token_is_confirmed(swarm: Swarm, raw: RawNode) -> None:
    token = (Tag.TOKEN, token_for(swarm, raw, TOPIC))
    assert raw.ask(swarm, announce(TOPIC, 80, TXID, token))[0] == Type.ANNOUNCED
    assert held(swarm, raw) == [("127.0.0.1", 80)]


def test_the_source_port_flag_overrules_the_port_field(swarm: Swarm, raw: RawNode) -> None:
    flags = (Tag.FLAGS, b"\x02")
    assert raw.ask(swarm, announce(TOPIC, 0, TXID, flags))[0] == Type.ANNOUNCED
    assert held(swarm, raw) == [raw.address]


def test_legacy_never_wants_a_token_from_local_addresses_too(
    make_swarm: Make, raw: RawNode
) -> None:
    swarm = make_swarm(config=Config(legacy="never"))
    reply = wire.decode(raw.ask(swarm, announce(TOPIC, 80, TXID)))
    assert (reply.type, reply.body[0]) == (Type.ERROR, 1)
    raw.send(swarm, announce(TOPIC, 80))
    assert held(swarm, raw) == []
    assert swarm.stats().dropped["token"] == 2


def test_of_more_peers_than_fit_a_sample_is_given(swarm: Swarm, raw: RawNode) -> None:
    announced = {("127.0.0.1", port) for port in range(1000, 1150)}
    for _, port in sorted(announced):
        raw.send(swarm, announce(TOPIC, port))
    first, second = held(swarm, raw), held(swarm, raw)
    assert len(set(first)) == len(first) == 64
    assert set(first) | set(second) <= announced
    assert set(first) != set(second)


def test_storage_stays_within_its_caps(make_swarm: Make, raw: RawNode) -> None:
    swarm = make_swarm(config=Config(topics=4, topic_peers=8))
    for topic in range(1, 9):
        for port in range(1000, 1012):
            raw.send(swarm, announce(bytes([topic]) * 32, port))
    held(swarm, raw)
    stats = swarm.stats()
    assert (stats.topics, stats.records) == (4, 32)


# --- replies that do not match ----------------------------------------------------------------


@pytest.mark.parametrize("how", ["port", "type", "TXID", "no TXID", "twice"])
def test_a_reply_that_does_not_match_changes_nothing(
    swarm: Swarm, node: ScriptedNode, make_raw: Callable[..., RawNode], how: str
) -> None:
    """Also it does not cancel the request that it imitates."""
    other = make_raw()
    swarm.ping(*node.address)
    before, table = swarm.stats(), swarm.nodes()

    def script(ask: wire.Packet) -> list[bytes]:
        right = node.reply(ask, Type.FOUND_NODES, b"\0")
        decoy = node.reply(ask, Type.FOUND_NODES, wire.found_nodes([other.listed]))
        assert ask.txid is not None
        match how:
            case "port":
                other.send(swarm, decoy)
                return [right]
            case "type":
                return [node.reply(ask, Type.PONG), right]
            case "TXID":
                return [decoy.replace(ask.txid, bytes(8)), right]
            case "no TXID":
                return [wire.encode(Type.FOUND_NODES, node.id, decoy[33:72]), right]
            case _:
                return [right, decoy]

    node.scripts[Type.FIND_NODE] = script
    assert swarm.find_node(TOPIC) == table
    wait_until(lambda: dropped_since(before, swarm.stats()) == {"unsolicited": 1})
    assert swarm.nodes() == table
    other.expect_pong_next(swarm)


def test_a_late_reply_is_unsolicited(make_swarm: Make, raw: RawNode) -> None:
    swarm = make_swarm(config=Config(request_timeout=0.05))
    with pytest.raises(RequestTimeout):
        swarm.ping(*raw.address, timeout=None)
    txid = wire.decode(raw.receive()).txid
    assert txid is not None
    raw.send(swarm, wire.encode(Type.PONG, raw.id, fields=[(Tag.TXID, txid)]))
    raw.round_trip(swarm)
    assert swarm.stats().dropped["unsolicited"] == 1
    assert swarm.nodes() == []


def test_peers_of_another_topic_are_not_taken(swarm: Swarm, node: ScriptedNode) -> None:
    swarm.ping(*node.address)
    body = wire.peers(bytes(reversed(TOPIC)), [("127.0.0.1", 80)])
    node.scripts[Type.GET_PEERS] = lambda ask: [node.reply(ask, Type.PEERS, body)]
    assert swarm.get_peers(TOPIC, timeout=0.3) == []
    asked = len(node.asked_for(Type.GET_PEERS))
    wait_until(lambda: swarm.stats().dropped["unsolicited"] == asked)


# --- what a reply lists -----------------------------------------------------------------------


@pytest.fixture
def lister(swarm: Swarm, make_node: MakeNode) -> ScriptedNode:
    """The only contact of `swarm`, farther from a target of zeros than all that it lists."""
    node = make_node(b"\xfe" * 32)
    swarm.ping(*node.address)
    return node


NEAR = bytes(32)


@pytest.mark.parametrize(
    "ip",
    ["0.0.0.0", "0.1.2.3", "224.0.0.1", "239.1.2.3", "255.255.255.255", "port 0"],
)
def test_listed_addresses_that_are_no_hosts_are_skipped(
    swarm: Swarm, lister: ScriptedNode, make_node: MakeNode, ip: str
) -> None:
    good = make_node()
    bad = (b"\x01" * 32, "127.0.0.1", 0) if ip == "port 0" else (b"\x01" * 32, ip, 4000)
    lister.lists = [bad, good.listed]
    assert {node.port for node in swarm.find_node(NEAR)} == {lister.port, good.port}
    stats = swarm.stats()
    asked = len(lister.asked_for(Type.FIND_NODE)) + len(good.asked_for(Type.FIND_NODE))
    assert (stats.packets_out["FIND_NODE"], stats.dropped["send"]) == (asked, 0)


def test_of_duplicates_the_first_is_kept(
    swarm: Swarm, lister: ScriptedNode, make_node: MakeNode
) -> None:
    first, second = make_node(b"\x01" * 32), make_node(b"\x01" * 32)
    lister.lists = [first.listed, second.listed]
    assert {node.port for node in swarm.find_node(NEAR)} == {lister.port, first.port}
    assert second.asked == []


def test_our_own_id_and_address_are_skipped(
    swarm: Swarm, lister: ScriptedNode, make_node: MakeNode
) -> None:
    impostor = make_node(swarm.id)
    lister.lists = [impostor.listed, (b"\x01" * 32, *swarm.address)]
    assert swarm.find_node(NEAR) == [Node(*lister.listed)]
    assert impostor.asked == []
    stats = swarm.stats()
    assert stats.packets_out["FIND_NODE"] == len(lister.asked_for(Type.FIND_NODE))


def test_of_more_than_twenty_listed_twenty_are_used(
    swarm: Swarm, lister: ScriptedNode, make_node: MakeNode
) -> None:
    used = [make_node(bytes([2 + n]) * 32) for n in range(20)]
    beyond = [make_node(bytes([1, n]) * 16) for n in range(5)]
    lister.lists = [node.listed for node in used + beyond]
    found = swarm.find_node(NEAR)
    assert found == [Node(*node.listed) for node in used]
    assert not any(node.asked for node in beyond)


def test_listed_peers_that_are_no_hosts_are_skipped(swarm: Swarm, lister: ScriptedNode) -> None:
    lister.holds = [("0.0.0.0", 80), ("224.0.0.1", 80), ("127.0.0.1", 0), ("127.0.0.1", 80)]
    assert swarm.get_peers(TOPIC) == [Peer("127.0.0.1", 80)]


# --- the table --------------------------------------------------------------------------------


def test_a_sender_is_listed_only_after_it_answered_us(swarm: Swarm, raw: RawNode) -> None:
    raw.send(swarm, wire.encode(Type.PING, raw.id))
    assert wire.decode(raw.receive()).type == Type.PONG
    probe = wire.decode(raw.receive())
    assert (probe.type, swarm.nodes()) == (Type.PING, [])
    assert probe.txid is not None
    raw.send(swarm, wire.encode(Type.PONG, raw.id, fields=[(Tag.TXID, probe.txid)]))
    wait_until(lambda: swarm.nodes() == [Node(*raw.listed)])


def test_a_read_only_sender_is_not_listed(swarm: Swarm, make_node: MakeNode) -> None:
    hidden, seen = make_node(), make_node()
    read_only = [(Tag.FLAGS, b"\x01"), TXID]
    hidden.send(swarm, wire.encode(Type.FIND_NODE, hidden.id, TOPIC, read_only))
    wait_until(lambda: hidden.asked_for(Type.FOUND_NODES))
    # Candidates are asked in their order: whoever came first would be in the table first.
    seen.send(swarm, wire.encode(Type.PING, seen.id))
    wait_until(lambda: swarm.nodes())
    assert swarm.nodes() == [Node(*seen.listed)]
    assert not hidden.asked_for(Type.PING)


def test_the_same_id_from_another_address_is_ignored(swarm: Swarm, make_node: MakeNode) -> None:
    listed, later = make_node(), make_node()
    thief = make_node(listed.id)
    swarm.ping(*listed.address)
    thief.send(swarm, wire.encode(Type.PING, thief.id))
    wait_until(lambda: thief.asked_for(Type.PONG))
    later.send(swarm, wire.encode(Type.PING, later.id))
    wait_until(lambda: len(swarm.nodes()) == 2)
    assert set(swarm.nodes()) == {Node(*listed.listed), Node(*later.listed)}


def test_ten_thousand_ids_from_one_address_are_one_entry(
    swarm: Swarm, make_raw: Callable[..., RawNode], rng: random.Random
) -> None:
    raw = make_raw(rng.randbytes(32))
    for _ in range(10_000):
        raw.send(swarm, wire.encode(Type.PING, rng.randbytes(32)))
        while (packet := wire.decode(raw.receive())).type != Type.PONG:
            if packet.type == Type.PING and packet.txid:
                raw.send(
                    swarm,
                    wire.encode(Type.PONG, rng.randbytes(32), fields=[(Tag.TXID, packet.txid)]),
                )
    assert len(swarm.nodes()) <= 1


# --- many -------------------------------------------------------------------------------------

TARGET = """
import resource, sys
from kadepy import Swarm

def rss():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

swarm = Swarm(host="127.0.0.1")
swarm.set_callback(lambda *packet: None)
print(swarm.port, swarm.id.hex())
for line in sys.stdin:
    print(rss(), sum(swarm.stats().dropped.values()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_200_000_hostile_packets_leave_it_alive_small_and_silent(
    start: Callable[..., Child], rng: random.Random
) -> None:
    target = start(TARGET)
    port, node_id = target.line().split()
    raw = RawNode(rng.randbytes(32))
    to = ("127.0.0.1", int(port))
    at_start, _ = map(int, target.ask("").split())

    for chunk in range(200_000 // 50):
        for _ in range(50):
            raw.socket.sendto(hostile(rng), to)
        # One round trip a chunk keeps the socket's buffer from dropping what should arrive.
        txid = chunk.to_bytes(8)
        raw.socket.sendto(wire.encode(Type.PING, raw.id, fields=[(Tag.TXID, txid)]), to)
        pong = wire.encode(Type.PONG, bytes.fromhex(node_id)) + wire.trailer((Tag.TXID, txid))
        while not raw.receive().startswith(pong):
            pass
    raw.close()

    at_end, dropped = map(int, target.ask("").split())
    assert dropped > 50_000
    assert at_end - at_start <= 32 * 2**20
    assert target.process.stdin is not None
    target.process.stdin.close()
    assert (target.wait(), target.rest(), target.stderr) == (0, [], "")


VALID = [
    ping(TXID),
    wire.encode(Type.PONG, ID, fields=[TXID]),
    wire.encode(Type.FIND_NODE, ID, TOPIC, [TXID, (Tag.PADDING, bytes(300))]),
    wire.encode(Type.FOUND_NODES, ID, wire.found_nodes([(ID, "127.0.0.1", 4000)] * 20), [TXID]),
    announce(TOPIC, 80, TXID, (Tag.TOKEN, bytes(16)), (Tag.FLAGS, b"\x02")),
    announce(TOPIC, 80),
    wire.encode(Type.GET_PEERS, ID, TOPIC, [TXID, (Tag.WANT, b"\x03")]),
    wire.encode(Type.PEERS, ID, wire.peers(TOPIC, [("127.0.0.1", 80)] * 64), [TXID]),
    wire.encode(Type.ANNOUNCED, ID, TOPIC, [TXID]),
    wire.encode(Type.ERROR, ID, b"\x01\x02no", [TXID, (Tag.AGENT, b"agent")]),
    wire.encode(20, ID, b"payload"),
]


def hostile(rng: random.Random) -> bytes:
    if rng.random() < 0.4:
        return bytes([rng.randrange(16)]) + rng.randbytes(rng.randrange(120))
    packet = bytearray(rng.choice(VALID))
    for _ in range(rng.randrange(1, 5)):
        packet[rng.randrange(len(packet))] = rng.choice((0, 1, 0x7F, 0xFF, rng.randrange(256)))
    return bytes(packet[: rng.randrange(len(packet) + 1)] if rng.random() < 0.3 else packet)
