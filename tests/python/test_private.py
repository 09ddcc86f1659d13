"""Private networks: what a network key does on the wire, whom it keeps out, and how it is given;
the other side of the wire is played with libsodium and OpenSSL."""

from __future__ import annotations

import array
import ast
import collections
import itertools
import json
import os
import queue
import re
import secrets
import subprocess
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import kadepy
import wire
from ciphers import V01, Sealed
from conftest import DEADLINE, Child, RawNode, ScriptedNode, can_bind, wait_until
from kadepy import BootstrapError, Config, Node, Peer, RequestTimeout, Swarm, topic
from kadepy.cli import demo, main
from wire import Tag, Type

KEY = bytes(range(0xA0, 0xC0))
OTHER = bytes(range(0xC0, 0xE0))
TOPIC = bytes(range(32))
TXID = (Tag.TXID, b"\xa1" * 8)
READ_ONLY = (Tag.FLAGS, b"\x01")
MAX_SENT = 1_200
QUICK = Config(request_timeout=0.25)

Make = Callable[..., Swarm]
MakeRaw = Callable[..., RawNode]
MakeNode = Callable[..., ScriptedNode]
Start = Callable[..., Child]

CIPHERS: dict[str, Callable[[bytes], Sealed | V01]] = {"sealed": Sealed, "chacha20": V01}
each_cipher = pytest.mark.parametrize("cipher", CIPHERS)


def assert_secret(text: object, *keys: bytes) -> None:
    """No three bytes of a key stand in `text` in any of the forms in which Python shows bytes."""
    for key in keys:
        assert str(int.from_bytes(key))[:12] not in str(text)
        for part in (key[at : at + 3] for at in range(len(key) - 2)):
            decimals = ", ".join(map(str, part))
            for form in (part.hex(), part.hex(" "), repr(part)[2:-1], decimals):
                assert form.lower() not in str(text).lower()


# --- the wire ---------------------------------------------------------------------------------


@each_cipher
def test_a_member_s_requests_are_answered(make_swarm: Make, make_raw: MakeRaw, cipher: str) -> None:
    swarm, raw = (
        make_swarm(network_key=KEY, cipher=cipher),
        make_raw(cipher=CIPHERS[cipher](KEY)),
    )
    raw.expect_pong_next(swarm)
    request = wire.encode(Type.FIND_NODE, raw.id, TOPIC, [TXID, READ_ONLY])
    found = wire.decode(raw.ask(swarm, request))
    assert (found.type, found.txid, found.nodes) == (Type.FOUND_NODES, TXID[1], [])


@each_cipher
def test_a_member_is_pinged_and_listed(make_swarm: Make, make_node: MakeNode, cipher: str) -> None:
    swarm, node = (
        make_swarm(network_key=KEY, cipher=cipher),
        make_node(cipher=CIPHERS[cipher](KEY)),
    )
    assert swarm.ping(*node.address) > 0
    assert swarm.nodes() == [Node(*node.listed)]
    assert (node.asked[0].type, node.asked[0].sender) == (Type.PING, swarm.id)


@each_cipher
def test_lookups_and_announces_pass_through_members(
    make_swarm: Make, make_node: MakeNode, cipher: str
) -> None:
    swarm, near, far = (
        make_swarm(network_key=KEY, cipher=cipher),
        make_node(cipher=CIPHERS[cipher](KEY)),
        make_node(cipher=CIPHERS[cipher](KEY)),
    )
    near.lists = [far.listed]
    far.holds = [("127.0.0.1", 8080)]
    assert swarm.bootstrap(near.address) == 2
    assert swarm.get_peers(TOPIC) == [Peer("127.0.0.1", 8080)]
    assert swarm.announce_peer(TOPIC, 80) == 2
    for node in (near, far):
        (announce,) = node.asked_for(Type.ANNOUNCE_PEER)
        assert announce.body == wire.announce(TOPIC, 80)
        assert announce.fields is not None
        assert announce.fields[Tag.TOKEN] == b"token of " + node.id[:4]
        lookups = node.asked_for(Type.FIND_NODE) + node.asked_for(Type.GET_PEERS)
        assert all(ask.txid and ask.size >= 400 for ask in lookups)


@each_cipher
@pytest.mark.parametrize("length", [0, 1, 1_100])
def test_messages_go_both_ways(
    make_swarm: Make, make_raw: MakeRaw, cipher: str, length: int
) -> None:
    swarm, raw = (
        make_swarm(network_key=KEY, cipher=cipher),
        make_raw(cipher=CIPHERS[cipher](KEY)),
    )
    payload = secrets.token_bytes(length)
    got: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
    swarm.set_callback(lambda *packet: got.put(packet))

    swarm.send(*raw.address, 20, payload)
    datagram = raw.socket.recv(65_535)
    assert raw.cipher.open(datagram) == wire.encode(20, swarm.id, payload)
    assert len(datagram) == 33 + length + CIPHERS[cipher](KEY).OVERHEAD <= MAX_SENT

    raw.send(swarm, wire.encode(20, raw.id, payload))
    assert got.get(timeout=DEADLINE) == (raw.id, 20, *raw.address, payload)


def test_the_fullest_answer_stays_within_a_datagram(make_swarm: Make, make_raw: MakeRaw) -> None:
    swarm, raw = make_swarm(network_key=KEY), make_raw(cipher=Sealed(KEY))
    token = (Tag.TOKEN, token_for(swarm, raw))
    for port in range(1_000, 1_100):
        assert raw.ask(swarm, announce(raw, port, token))[0] == Type.ANNOUNCED
    raw.send(swarm, wire.encode(Type.GET_PEERS, raw.id, TOPIC, [TXID, READ_ONLY]))
    datagram = raw.socket.recv(65_535)
    assert len(wire.decode(raw.cipher.open(datagram)).peers) == 64
    assert len(datagram) <= MAX_SENT


@each_cipher
def test_stats_count_the_bytes_on_the_wire(
    make_swarm: Make, make_raw: MakeRaw, cipher: str
) -> None:
    swarm, raw = (
        make_swarm(network_key=KEY, cipher=cipher),
        make_raw(cipher=CIPHERS[cipher](KEY)),
    )
    asked = [
        wire.encode(Type.PING, raw.id, b"", [TXID, READ_ONLY]),
        wire.encode(Type.FIND_NODE, raw.id, TOPIC, [TXID, READ_ONLY, (Tag.PADDING, bytes(350))]),
        wire.encode(Type.GET_PEERS, raw.id, TOPIC, [TXID, READ_ONLY]),
    ]
    sent = [b"does not open", *map(raw.cipher.seal, asked)]
    received = []
    raw.socket.sendto(sent[0], swarm.address)
    for datagram in sent[1:]:
        raw.socket.sendto(datagram, swarm.address)
        received.append(raw.socket.recv(65_535))
    stats = swarm.stats()
    assert stats.bytes_in == sum(map(len, sent))
    assert stats.bytes_out == sum(map(len, received))
    assert stats.dropped["unopened"] == 1
    assert sum(stats.packets_in.values()) == sum(stats.packets_out.values()) == len(asked)


# --- strangers --------------------------------------------------------------------------------

KNOWN_KEY = Sealed(KEY)
KNOWN_KEY.key = KEY
STRANGERS = {
    "without a key": wire.Clear(),
    "with another key": Sealed(OTHER),
    "with v0.1's cipher": V01(KEY),
    "with the key itself in place of the derived one": KNOWN_KEY,
}
STRANGER = b"\x77" * 32
SAID = [
    wire.encode(Type.PING, STRANGER),
    wire.encode(Type.PING, STRANGER, fields=[TXID]),
    wire.encode(Type.PONG, STRANGER, fields=[TXID]),
    wire.encode(Type.FIND_NODE, STRANGER, TOPIC, [TXID, (Tag.PADDING, bytes(350))]),
    wire.encode(Type.GET_PEERS, STRANGER, TOPIC),
    wire.encode(Type.ANNOUNCE_PEER, STRANGER, wire.announce(TOPIC, 80)),
    wire.encode(20, STRANGER, b"hello"),
    wire.encode(20, STRANGER, bytes(1_100)),
]


@pytest.mark.parametrize("who", STRANGERS)
def test_a_stranger_s_datagrams_are_counted_and_do_nothing(
    make_swarm: Make, make_raw: MakeRaw, who: str
) -> None:
    swarm, raw = make_swarm(network_key=KEY), make_raw(cipher=Sealed(KEY))
    got: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
    swarm.set_callback(lambda *packet: got.put(packet))
    for packet in SAID:
        raw.socket.sendto(STRANGERS[who].seal(packet), swarm.address)
    raw.expect_pong_next(swarm)
    stats = swarm.stats()
    assert {reason: n for reason, n in stats.dropped.items() if n} == {"unopened": len(SAID)}
    assert sum(stats.packets_in.values()) == stats.packets_in["PING"] == 2
    assert (swarm.nodes(), stats.records) == ([], 0)
    assert got.get(timeout=DEADLINE)[:2] == (raw.id, Type.PING)


@pytest.mark.parametrize(
    "options",
    [{}, {"network_key": OTHER}, {"network_key": KEY, "cipher": "chacha20"}],
    ids=["without a key", "with another key", "with v0.1's cipher"],
)
def test_strangers_and_members_do_not_meet(make_swarm: Make, options: dict[str, Any]) -> None:
    member, friend = (make_swarm(network_key=KEY) for _ in range(2))
    stranger = make_swarm(config=QUICK, **options)
    assert member.bootstrap(friend.address) == 1
    senders: set[bytes] = set()
    member.set_callback(lambda *packet: senders.add(packet[0]))

    with pytest.raises(RequestTimeout):
        stranger.ping(*member.address, timeout=0.1)
    with pytest.raises(BootstrapError, match=str(member.port)):
        stranger.bootstrap(member.address, timeout=0.1)
    assert stranger.nodes() == []
    wait_until(lambda: member.stats().dropped["unopened"] == stranger.stats().requests)
    friend.ping(*member.address)
    wait_until(lambda: senders)
    assert senders == {friend.id}

    with pytest.raises(RequestTimeout):
        member.ping(*stranger.address, timeout=0.1)
    assert (member.nodes(), stranger.nodes()) == ([Node(friend.id, *friend.address)], [])


def test_a_node_without_a_key_does_not_take_in_a_sealed_sender(
    swarm: Swarm, make_raw: MakeRaw
) -> None:
    """It cannot know that they are sealed: what begins like an application's message is one."""
    raw = make_raw()
    for first in (9, 15, 16, 255):
        raw.socket.sendto(Sealed(KEY).seal(SAID[1], bytes([first])), swarm.address)
    raw.expect_pong_next(swarm)
    stats = swarm.stats()
    assert (stats.dropped["unknown_type"], stats.packets_in["APPLICATION"]) == (2, 2)
    assert swarm.nodes() == []


def test_a_sealed_network_has_no_v01_nodes(make_swarm: Make, make_node: MakeNode) -> None:
    swarm, node = (
        make_swarm(network_key=KEY, config=QUICK),
        make_node(cipher=Sealed(KEY), v01=True),
    )
    with pytest.raises(RequestTimeout):
        swarm.ping(*node.address, timeout=0.1)
    node.send(swarm, wire.encode(Type.ANNOUNCE_PEER, node.id, wire.announce(TOPIC, 80)))
    wait_until(lambda: swarm.stats().dropped["token"] == 1)
    asked = swarm.stats().packets_out["PING"]
    wait_until(lambda: swarm.stats().dropped["unsolicited"] == asked > 0)
    assert (swarm.nodes(), swarm.stats().records) == ([], 0)


def test_networks_of_one_machine_stay_apart(make_swarm: Make) -> None:
    options: list[dict[str, Any]] = [{"network_key": KEY}, {"network_key": OTHER}, {}]
    networks = [[make_swarm(**each) for _ in range(3)] for each in options]
    gates = [network[0].address for network in networks]

    def join(swarm: Swarm) -> None:
        if swarm.address in gates:
            foreign = [gate for gate in gates if gate != swarm.address]
            with pytest.raises(BootstrapError) as told:
                swarm.bootstrap(foreign, timeout=1)
            assert all(str(port) in str(told.value) for _, port in foreign)
        else:
            assert swarm.bootstrap(gates) > 0

    with ThreadPoolExecutor() as pool:
        list(pool.map(join, itertools.chain(*networks)))
    for network in networks:
        for swarm in network:
            others = {other.address for other in network if other is not swarm}
            assert swarm.bootstrap(others) == 2
            assert {(node.ip, node.port) for node in swarm.nodes()} == others
            assert swarm.announce_peer(TOPIC) == 2
    for network in networks:
        for swarm in network:
            assert set(swarm.get_peers(TOPIC)) == {other.address for other in network}


# --- tampering and replay ---------------------------------------------------------------------


def test_a_flipped_bit_anywhere_in_a_sealed_packet_is_noticed(
    make_swarm: Make, make_raw: MakeRaw
) -> None:
    swarm, raw = make_swarm(network_key=KEY), make_raw(cipher=Sealed(KEY))
    intact = raw.cipher.seal(wire.encode(Type.PING, raw.id, fields=[TXID, READ_ONLY]))
    for at, byte in enumerate(intact):
        for bit in range(8):
            flipped = intact[:at] + bytes([byte ^ 1 << bit]) + intact[at + 1 :]
            raw.socket.sendto(flipped, swarm.address)
        raw.expect_pong_next(swarm)
    assert swarm.stats().dropped["unopened"] == 8 * len(intact)
    raw.socket.sendto(intact, swarm.address)
    assert wire.decode(raw.receive()).txid == TXID[1]


def sealed_and_mangled() -> dict[str, bytes]:
    packet = wire.encode(Type.PING, STRANGER, fields=[TXID])
    sealed, again = Sealed(KEY).seal(packet), Sealed(KEY).seal(packet)
    half = len(sealed) // 2
    return {
        **{f"cut to {length}": sealed[:length] for length in range(len(sealed))},
        **{f"without its first {n}": sealed[n:] for n in (1, 24, 33)},
        "its packet alone": packet,
        "its packet with nonce and tag": sealed[:24] + packet + sealed[-16:],
        "a byte longer": sealed + b"\0",
        "a byte longer in front": b"\0" + sealed,
        "twice": sealed * 2,
        "its halves swapped": sealed[half:] + sealed[:half],
        "with another's nonce": again[:24] + sealed[24:],
        "with another's tag": sealed[:-16] + again[-16:],
        "nothing sealed": Sealed(KEY).seal(b""),
        "a header's first 32 bytes": Sealed(KEY).seal(packet[:32]),
        "72 bytes": bytes(72),
        "zeros": bytes(len(sealed)),
    }


def test_mangled_sealed_packets_are_counted_and_do_nothing(
    make_swarm: Make, make_raw: MakeRaw
) -> None:
    swarm, raw = make_swarm(network_key=KEY), make_raw(cipher=Sealed(KEY))
    for count, (name, datagram) in enumerate(sealed_and_mangled().items(), 1):
        raw.socket.sendto(datagram, swarm.address)
        raw.expect_pong_next(swarm)
        dropped = {reason: n for reason, n in swarm.stats().dropped.items() if n}
        assert dropped == {"unopened": count}, name
    assert swarm.nodes() == []


def test_a_tampered_answer_is_not_taken_and_cancels_nothing(
    make_swarm: Make, make_raw: MakeRaw
) -> None:
    swarm, raw = make_swarm(network_key=KEY), make_raw(cipher=Sealed(KEY))
    with ThreadPoolExecutor() as pool:
        call = pool.submit(swarm.ping, *raw.address, timeout=None)
        txid = wire.decode(raw.receive()).txid
        assert txid is not None
        pong = raw.cipher.seal(wire.encode(Type.PONG, raw.id, fields=[(Tag.TXID, txid)]))
        for at, byte in enumerate(pong):
            raw.socket.sendto(pong[:at] + bytes([byte ^ 1]) + pong[at + 1 :], swarm.address)
        wait_until(lambda: swarm.stats().dropped["unopened"] == len(pong))
        assert swarm.nodes() == []
        assert not call.done()
        raw.socket.sendto(pong, swarm.address)
        assert call.result(DEADLINE) > 0
    assert swarm.nodes() == [Node(*raw.listed)]


def announce(raw: RawNode, port: int, token: tuple[int, bytes]) -> bytes:
    body = wire.announce(TOPIC, port)
    return wire.encode(Type.ANNOUNCE_PEER, raw.id, body, [TXID, token, READ_ONLY])


def token_for(swarm: Swarm, raw: RawNode) -> bytes:
    asked = wire.encode(Type.GET_PEERS, raw.id, TOPIC, [TXID, READ_ONLY])
    fields = wire.decode(raw.ask(swarm, asked)).fields
    assert fields is not None
    return fields[Tag.TOKEN]


def test_a_replayed_request_brings_nobody_into_the_table(
    make_swarm: Make, make_raw: MakeRaw, make_node: MakeNode
) -> None:
    swarm, contact = make_swarm(network_key=KEY), make_node(cipher=Sealed(KEY))
    assert swarm.bootstrap(contact.address) == 1
    recorded = Sealed(KEY).seal(wire.encode(Type.PING, STRANGER, fields=[TXID]))
    of_contact = Sealed(KEY).seal(wire.encode(Type.PING, contact.id, fields=[TXID]))
    replayer = make_raw(cipher=Sealed(KEY))
    for datagram in (recorded, recorded, of_contact, of_contact):
        replayer.socket.sendto(datagram, swarm.address)
    kinds = [wire.decode(replayer.receive()).type for _ in range(5)]
    # The probe is one that only a member can answer.
    assert sorted(kinds) == [Type.PING, *[Type.PONG] * 4]
    replayer.expect_pong_next(swarm)
    assert swarm.nodes() == [Node(*contact.listed)]


def test_a_replayed_answer_is_unsolicited(make_swarm: Make, make_raw: MakeRaw) -> None:
    swarm, raw = make_swarm(network_key=KEY), make_raw(cipher=Sealed(KEY))
    with ThreadPoolExecutor() as pool:
        call = pool.submit(swarm.ping, *raw.address, timeout=None)
        txid = wire.decode(raw.receive()).txid
        assert txid is not None
        pong = raw.cipher.seal(wire.encode(Type.PONG, raw.id, fields=[(Tag.TXID, txid)]))
        raw.socket.sendto(pong, swarm.address)
        assert call.result(DEADLINE) > 0
    before, table = swarm.stats().dropped["unsolicited"], swarm.nodes()
    raw.socket.sendto(pong, swarm.address)
    wait_until(lambda: swarm.stats().dropped["unsolicited"] == before + 1)
    assert swarm.nodes() == table == [Node(*raw.listed)]


@pytest.mark.skipif(sys.platform != "linux", reason="needs a second loopback address")
def test_an_announce_replayed_from_another_address_stores_nothing(
    make_swarm: Make, make_raw: MakeRaw
) -> None:
    swarm, raw = make_swarm(network_key=KEY), make_raw(cipher=Sealed(KEY))
    replayer = make_raw(cipher=Sealed(KEY), host="127.0.0.2")
    recorded = raw.cipher.seal(announce(raw, 80, (Tag.TOKEN, token_for(swarm, raw))))

    def replay() -> None:
        replayer.socket.sendto(recorded, swarm.address)
        refusal = wire.decode(replayer.receive())
        assert (refusal.type, refusal.body[0]) == (Type.ERROR, 1)

    replay()
    assert (swarm.stats().dropped["token"], swarm.get_peers(TOPIC)) == (1, [])
    raw.socket.sendto(recorded, swarm.address)
    assert wire.decode(raw.receive()).type == Type.ANNOUNCED
    replay()
    assert (swarm.stats().dropped["token"], swarm.stats().records) == (2, 1)
    assert swarm.get_peers(TOPIC) == [Peer("127.0.0.1", 80)]


# --- several keys -----------------------------------------------------------------------------


def test_the_first_key_seals_and_all_open(make_swarm: Make, make_raw: MakeRaw) -> None:
    swarm, raw = make_swarm(network_key=[KEY, OTHER]), make_raw(cipher=Sealed(KEY))
    request = wire.encode(Type.PING, raw.id, fields=[TXID, READ_ONLY])
    for key in (KEY, OTHER):
        raw.socket.sendto(Sealed(key).seal(request), swarm.address)
        assert wire.decode(raw.receive()).txid == TXID[1]


def test_a_network_changes_its_key_one_node_at_a_time(make_swarm: Make) -> None:
    members = [make_swarm(network_key=[KEY]) for _ in range(3)]
    names = map(str, itertools.count())

    def assert_whole() -> None:
        # Who has joined through all knows all; they take it in when it has answered them too.
        wait_until(lambda: all(len(member.nodes()) == 2 for member in members))
        for member in members:
            name = topic(next(names))
            assert member.announce_peer(name) == 2
            for other in members:
                assert other.get_peers(name) == [Peer(*member.address)]

    for at, member in enumerate(members[1:], 1):
        member.bootstrap([other.address for other in members[:at]])
    assert_whole()
    for keys in ([KEY, OTHER], [OTHER, KEY], [OTHER]):
        for at, member in enumerate(members):
            member.close()
            members[at] = make_swarm(member.port, node_id=member.id, network_key=keys)
            others = [other.address for other in members if other is not members[at]]
            assert members[at].bootstrap(others) == 2
            assert_whole()


# --- nonces -----------------------------------------------------------------------------------


@each_cipher
def test_no_nonce_comes_twice(make_swarm: Make, make_raw: MakeRaw, cipher: str) -> None:
    """Not of one node, nor of two, nor of one that is made again as it was."""
    raw, nonces = make_raw(), set()
    options = {"network_key": KEY, "cipher": cipher, "node_id": b"\x01" * 32}

    def collect(swarm: Swarm) -> None:
        for _ in range(1_000):
            swarm.send(*raw.address, 20, b"")
            nonces.add(raw.receive()[CIPHERS[cipher](KEY).NONCE])

    first = make_swarm(**options)
    collect(first)
    first.close()
    collect(make_swarm(first.port, **options))
    collect(make_swarm(**options))
    assert len(nonces) == 3_000


def test_each_command_begins_its_nonces_anew(make_swarm: Make, make_raw: MakeRaw) -> None:
    """For in the copy that a fork makes only commands seal, and none may go on where both were."""
    raw, swarm = make_raw(), make_swarm(network_key=KEY)
    for _ in range(2):
        swarm.send(*raw.address, 20, b"")
    first, second = (raw.receive()[:16] for _ in range(2))
    assert first != second


UNSEEN_FORK = """
import ctypes, os, signal, sys
import kadepy
from kadepy import ClosedError, Swarm

to = ("127.0.0.1", int(sys.argv[1]))
swarm = Swarm(host="127.0.0.1", network_key=bytes.fromhex(sys.argv[2]), cipher=sys.argv[3])
calls = [
    lambda: swarm.send(*to, 20, b"child"),
    lambda: swarm.ping(*to),
    lambda: swarm.announce_to(*to, bytes(32), 80),
    lambda: kadepy.send_packet(*to, 20, b"child"),
]
swarm.send(*to, 20, b"before")
# PyDLL keeps the GIL, as a fork in C code of an extension module does.
child = ctypes.PyDLL(None).fork()
if child == 0:
    signal.alarm(10)
    status = 0
    for call in calls:
        try:
            call()
        except ClosedError:
            status += 1
        except BaseException:
            os._exit(99)
    os._exit(status)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
swarm.send(*to, 20, b"after")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="forks by libc")
@each_cipher
def test_after_a_fork_that_python_did_not_see_the_child_sends_nothing(
    start: Start, make_raw: MakeRaw, cipher: str
) -> None:
    raw = make_raw(cipher=CIPHERS[cipher](KEY))
    parent = start(UNSEEN_FORK, raw.port, KEY.hex(), cipher)
    assert parent.line() == "4"
    datagrams = [raw.socket.recv(65_535) for _ in range(2)]
    assert [raw.cipher.open(each)[33:] for each in datagrams] == [b"before", b"after"]
    assert len({each[CIPHERS[cipher](KEY).NONCE] for each in datagrams}) == 2
    assert (parent.wait(3), parent.stderr) == (0, "")


FORK = """
import os, sys, warnings
from kadepy import Swarm

warnings.simplefilter("ignore", DeprecationWarning)  # Python's own, of a fork beside threads
to = ("127.0.0.1", int(sys.argv[1]))

def send():
    options = {"network_key": bytes.fromhex(sys.argv[2]), "cipher": sys.argv[3]}
    with Swarm(host="127.0.0.1", **options) as swarm:
        swarm.send(*to, 20, b"")

send()
child = os.fork()
send()
if child == 0:
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")
@each_cipher
def test_nodes_made_on_both_sides_of_a_fork_share_no_nonce(
    start: Start, make_raw: MakeRaw, cipher: str
) -> None:
    raw = make_raw()
    parent = start(FORK, raw.port, KEY.hex(), cipher)
    assert parent.line() == "0"
    nonces = [raw.receive()[CIPHERS[cipher](KEY).NONCE] for _ in range(3)]
    prefixes = {nonce[:-8] for nonce in nonces}
    counts = {nonce[-8:] for nonce in nonces}
    assert len(prefixes) == len(counts) == 3


def test_a_sealed_datagram_is_no_packet_to_a_node_without_a_key(
    make_swarm: Make, swarm: Swarm
) -> None:
    member = make_swarm(network_key=KEY)
    for _ in range(20):
        member.send(*swarm.address, 20, b"secret")
    wait_until(lambda: swarm.stats().dropped["unknown_type"] == 20)
    assert not any(swarm.stats().packets_in.values())


# --- arguments --------------------------------------------------------------------------------

ACCEPTED: dict[str, Callable[[bytes], object]] = {
    "bytes": bytes,
    "bytearray": bytearray,
    "memoryview": memoryview,
    "array of bytes": lambda key: array.array("B", key),
    "array of ints": lambda key: array.array("I", key),
    "list": lambda key: [key],
    "tuple": lambda key: (key, OTHER),
    "list of other forms": lambda key: [bytearray(key), memoryview(OTHER)],
    "deque": lambda key: collections.deque([key, OTHER]),
    "UserList": lambda key: collections.UserList([key]),
    "the same twice": lambda key: [key, key],
}


@pytest.mark.parametrize("form", ACCEPTED)
def test_a_key_is_any_bytes_like_object_or_a_sequence_of_them(
    make_swarm: Make, make_raw: MakeRaw, form: str
) -> None:
    make_raw(cipher=Sealed(KEY)).expect_pong_next(make_swarm(network_key=ACCEPTED[form](KEY)))


@pytest.mark.parametrize("form", [bytes, lambda key: [key], lambda key: (key,)])
def test_chacha20_takes_one_key(
    make_swarm: Make, make_raw: MakeRaw, form: Callable[[bytes], object]
) -> None:
    swarm = make_swarm(network_key=form(KEY), cipher="chacha20")
    make_raw(cipher=V01(KEY)).expect_pong_next(swarm)


def test_a_key_may_change_after_it_was_given(make_swarm: Make, make_raw: MakeRaw) -> None:
    key = bytearray(KEY)
    keys = [key]
    swarms = [make_swarm(network_key=key), make_swarm(network_key=keys)]
    key[:] = bytes(32)
    keys.clear()
    for swarm in swarms:
        make_raw(cipher=Sealed(KEY)).expect_pong_next(swarm)


def released() -> memoryview:
    view = memoryview(KEY)
    view.release()
    return view


REFUSED: dict[str, tuple[object, type[Exception], str]] = {
    "hex as bytes": (KEY.hex().encode(), ValueError, r"64 bytes; bytes\.fromhex\(\)"),
    "0 bytes": (b"", ValueError, "0 bytes"),
    "31 bytes": (KEY[:31], ValueError, "31 bytes"),
    "33 bytes": (KEY + b"\x01", ValueError, "33 bytes"),
    "all zero": (bytes(32), ValueError, "all zeros"),
    "all zero in a bytearray": (bytearray(32), ValueError, "all zeros"),
    "hex": (KEY.hex(), TypeError, r"fromhex\(\)"),
    "text": ("k" * 32, TypeError, r"fromhex\(\)"),
    "an int": (int.from_bytes(KEY), TypeError, "got int"),
    "a bool": (True, TypeError, "got bool"),
    "ints": (list(KEY), TypeError, r"network_key\[0\].*got int"),
    "a range": (range(0xA0, 0xC0), TypeError, r"network_key\[0\].*got int"),
    "no key": ([], ValueError, "empty"),
    "no key in a tuple": ((), ValueError, "empty"),
    "a list in a list": ([[KEY]], TypeError, r"network_key\[0\].*got list"),
    "None in a list": ([None], TypeError, r"network_key\[0\].*got NoneType"),
    "a dict": ({KEY: KEY}, TypeError, "got dict"),
    "a set": ({KEY}, TypeError, "got set"),
    "an iterator": (iter([KEY]), TypeError, "got list_iterator"),
    "a released memoryview": (released(), ValueError, "network_key"),
    "a strided memoryview": (memoryview(KEY + OTHER)[::2], ValueError, "contiguous"),
    "a short one in a list": ([KEY, OTHER[:31]], ValueError, r"network_key\[1\].*31 bytes"),
    "zeros in a list": ([KEY, bytes(32)], ValueError, r"network_key\[1\].*all zeros"),
    "hex in a list": ([KEY, OTHER.hex()], TypeError, r"network_key\[1\].*fromhex\(\)"),
    "an int in a deque": (collections.deque([KEY, 5]), TypeError, r"network_key\[1\].*got int"),
}


@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize("what", REFUSED)
def test_bad_keys(what: str, cipher: str) -> None:
    value, error, words = REFUSED[what]
    with pytest.raises(error, match="network_key") as told:
        Swarm(host="127.0.0.1", network_key=value, cipher=cipher)  # type: ignore[arg-type]
    assert re.search(words, str(told.value))
    assert_secret(told.value, KEY, OTHER)


def test_chacha20_refuses_several_keys() -> None:
    with pytest.raises(ValueError, match=r'one key for "chacha20".*got 2') as told:
        Swarm(host="127.0.0.1", network_key=[KEY, OTHER], cipher="chacha20")
    assert_secret(told.value, KEY, OTHER)


@pytest.mark.parametrize("key", [None, KEY], ids=["without a key", "with a key"])
@pytest.mark.parametrize(
    ("cipher", "error"),
    [
        ("aes", ValueError),
        ("Sealed", ValueError),
        ("", ValueError),
        ("\udc80", ValueError),
        (None, TypeError),
        (5, TypeError),
        (b"sealed", TypeError),
    ],
)
def test_bad_ciphers(cipher: Any, error: type[Exception], key: bytes | None) -> None:
    with pytest.raises(error, match='cipher must be "sealed" or "chacha20"') as told:
        Swarm(host="127.0.0.1", network_key=key, cipher=cipher)
    shown = repr(cipher) if isinstance(cipher, str) else type(cipher).__name__
    assert str(told.value).endswith(f"got {shown}")
    assert_secret(told.value, KEY)


@pytest.mark.parametrize("wrong_place", [KEY, KEY.hex()], ids=["bytes", "hex"])
def test_a_key_in_the_place_of_the_cipher_is_not_shown(wrong_place: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="cipher must be") as told:
        Swarm(host="127.0.0.1", network_key=KEY, cipher=wrong_place)
    assert_secret(told.value, KEY)


def test_the_frames_of_an_error_hold_no_key() -> None:
    with pytest.raises(ValueError, match="node_id") as told:
        Swarm(host="127.0.0.1", network_key=KEY, node_id=b"")
    shown = traceback.TracebackException.from_exception(told.value, capture_locals=True)
    library = [frame for frame in shown.stack if frame.filename.endswith("_base.py")]
    assert library
    assert_secret([frame.locals for frame in library], KEY)
    assert any("<Swarm, not started>" in str(frame.locals) for frame in library)


def test_at_most_eight_keys_are_taken(make_swarm: Make) -> None:
    make_swarm(network_key=[bytes([n]) * 32 for n in range(1, 9)])
    with pytest.raises(ValueError, match="at most 8 keys, got 9"):
        Swarm(network_key=[bytes([n]) * 32 for n in range(1, 10)])


def test_a_bad_key_leaves_no_socket_open(make_swarm: Make) -> None:
    swarm = make_swarm()
    port = swarm.port
    swarm.close()
    for bad in (KEY[:31], bytes(32), KEY.hex(), [KEY, None]):
        with pytest.raises((TypeError, ValueError), match="network_key") as told:
            Swarm(port, host="127.0.0.1", network_key=bad)  # type: ignore[arg-type]
        # It holds the frame and so whatever was made in it.
        assert told.value.__traceback__ is not None
        assert can_bind(port)


class Strided:
    """What an array library's strided array is: a buffer that is not contiguous, and shows all."""

    def __buffer__(self, flags: int) -> memoryview:
        return memoryview(bytes(byte for byte in KEY for _ in range(2)))[::2]

    def __repr__(self) -> str:
        return f"array({list(KEY)})"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="needs buffers made in Python")
def test_a_strided_array_is_not_shown() -> None:
    for call in (lambda: Swarm(network_key=Strided()), lambda: kadepy.set_network_key(Strided())):
        with pytest.raises(ValueError, match="contiguous") as told:
            call()
        assert_secret(told.value, KEY)


@each_cipher
def test_a_swarm_does_not_show_its_key(make_swarm: Make, cipher: str) -> None:
    key = b"QzXjWvKqPxZhJkVwYqGxBzHvTkXwMqZj"
    swarm = make_swarm(network_key=key, cipher=cipher)
    shown = [repr(swarm), vars(swarm), swarm.stats(), [repr(o) for o in vars(swarm).values()]]
    for each in shown:
        assert_secret(each, key)
    assert cipher in repr(swarm)


# --- set_network_key --------------------------------------------------------------------------

# Answers each line with what it evaluates to.
SHELL = """
import queue, sys
import kadepy
from kadepy import Swarm

packets = queue.SimpleQueue()
kadepy.set_callback(lambda *packet: packets.put(packet))

def pong(port):
    while (packet := packets.get(timeout=20))[1::2] != (1, port):
        pass
    return packet

def error(name, *args):
    try:
        getattr(kadepy, name)(*args)
    except Exception as error:
        return type(error).__name__ + ": " + str(error)

for line in sys.stdin:
    print(eval(line), flush=True)
"""


class Shell:
    """A process of its own, for its key and its default node are the process's."""

    def __init__(self, child: Child) -> None:
        self.ask = child.ask

    def set_key(self, key: bytes | None) -> None:
        assert self.ask(f"kadepy.set_network_key({key!r})") == "None"

    def assert_talks_to(self, raw: RawNode) -> None:
        """The default node's PING opens for `raw`, and `raw`'s PONG reaches the callback."""
        assert self.ask(f"kadepy.dht_ping(*{raw.address})") == "None"
        datagram, source = raw.socket.recvfrom(65_535)
        ping = wire.decode(raw.cipher.open(datagram))
        assert (ping.type, ping.txid is not None) == (Type.PING, True)
        pong = wire.encode(Type.PONG, raw.id, fields=[(Tag.TXID, ping.txid or b"")])
        raw.socket.sendto(raw.cipher.seal(pong), source)
        assert self.ask(f"pong({raw.port})") == repr((raw.id, 1, *raw.address, None))


@pytest.fixture
def shell(start: Start) -> Shell:
    return Shell(start(SHELL))


def test_a_key_set_before_the_node_is_made_counts(shell: Shell, make_raw: MakeRaw) -> None:
    shell.set_key(KEY)
    for _ in range(2):
        shell.ask("kadepy.create_swarm()")
        shell.assert_talks_to(make_raw(cipher=V01(KEY)))


def test_a_key_changes_under_a_node_that_runs(shell: Shell, make_raw: MakeRaw) -> None:
    shell.ask("kadepy.create_swarm()")
    for key in (KEY, OTHER, None, KEY):
        shell.set_key(key)
        shell.assert_talks_to(make_raw(cipher=V01(key) if key else None))


def test_a_refused_key_leaves_the_one_before(shell: Shell, make_raw: MakeRaw) -> None:
    shell.set_key(KEY)
    shell.ask("kadepy.create_swarm()")
    for bad in (OTHER[:31], bytes(32), OTHER.hex(), [OTHER]):
        assert "key must be" in shell.ask(f"error('set_network_key', {bad!r})")
    shell.assert_talks_to(make_raw(cipher=V01(KEY)))


def test_a_key_that_was_set_may_change_afterwards(shell: Shell, make_raw: MakeRaw) -> None:
    shell.ask(f"kadepy.set_network_key(key := bytearray({KEY!r}))")
    shell.ask("key.clear()")
    shell.ask("kadepy.create_swarm()")
    shell.assert_talks_to(make_raw(cipher=V01(KEY)))


def test_the_functions_of_v01_talk_to_a_swarm_with_chacha20(shell: Shell) -> None:
    options = f"host='127.0.0.1', network_key={KEY!r}, cipher='chacha20'"
    other = ast.literal_eval(shell.ask(f"((other := Swarm({options})).id, *other.address)"))
    shell.set_key(KEY)
    shell.ask("kadepy.create_swarm()")
    shell.ask("kadepy.dht_ping(*other.address)")
    pong = shell.ask("pong(other.port)")
    assert pong == repr((other[0], 1, other[1], other[2], None))


SENDS = {
    "dht_ping": (),
    "dht_find_node": (TOPIC,),
    "dht_announce_peer": (TOPIC, 80),
    "dht_get_peers": (TOPIC,),
    "send_packet": (20, b"secret"),
}


def test_a_key_does_not_reach_a_swarm_and_nothing_is_sent_in_the_clear(
    shell: Shell, make_raw: MakeRaw
) -> None:
    raw = make_raw()
    shell.ask("(swarm := Swarm(host='127.0.0.1'), other := Swarm(host='127.0.0.1'))")
    shell.set_key(KEY)
    assert shell.ask("swarm.ping(other.address) > 0") == "True"
    assert shell.ask("other.ping(swarm.address) > 0") == "True"
    for name, args in SENDS.items():
        told = shell.ask(f"error({name!r}, *{raw.address}, *{args})")
        assert told.startswith("RuntimeError: set_network_key was given a key")
        assert_secret(told, KEY)
    shell.ask(f"swarm.send(*{raw.address}, 20, b'the first that comes')")
    assert raw.receive()[33:] == b"the first that comes"
    shell.set_key(None)
    shell.assert_talks_to(raw)


@each_cipher
@pytest.mark.parametrize("is_set", [False, True], ids=["no key set", "a key set"])
def test_the_functions_of_v01_act_on_a_swarm_with_a_key(
    shell: Shell, make_raw: MakeRaw, cipher: str, is_set: bool
) -> None:
    shell.ask(f"(swarm := Swarm(host='127.0.0.1', network_key={KEY!r}, cipher={cipher!r}))")
    if is_set:
        shell.set_key(KEY)
    shell.assert_talks_to(make_raw(cipher=CIPHERS[cipher](KEY)))


@pytest.mark.parametrize("what", REFUSED)
def test_bad_keys_that_are_set(request: pytest.FixtureRequest, what: str) -> None:
    request.addfinalizer(lambda: kadepy.set_network_key(None))
    value, error, _ = REFUSED[what]
    # It takes one key, so any sequence of them is of a wrong type.
    is_bytes_like = isinstance(value, (bytes, bytearray, memoryview))
    with pytest.raises(error if is_bytes_like else TypeError, match="key") as told:
        kadepy.set_network_key(value)  # type: ignore[arg-type]
    assert_secret(told.value, KEY, OTHER)


# --- the command line -------------------------------------------------------------------------

KADEPY = (sys.executable, "-m", "kadepy")


def kadepy_command(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*KADEPY, *map(str, arguments)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=30,
        env={**os.environ, **environment},
    )


def test_keygen_prints_a_key_that_the_demo_takes(tmp_path: Path) -> None:
    first, second = kadepy_command("keygen"), kadepy_command("keygen")
    for done in (first, second):
        assert (done.returncode, done.stderr) == (0, "")
        assert re.fullmatch(r"[0-9a-f]{64}\n", done.stdout)
    assert first.stdout != second.stdout

    file = tmp_path / "network.key"
    file.write_text(first.stdout)
    ways: list[tuple[list[object], dict[str, str]]] = [
        (["--key-file", file], {}),
        ([], {"KADEPY_NETWORK_KEY": first.stdout}),
    ]
    for arguments, environment in ways:
        done = kadepy_command("demo", "--nodes", 5, "--json", *arguments, **environment)
        assert (done.returncode, done.stderr) == (0, "")
        figures = json.loads(done.stdout)
        assert (figures["private"], figures["found_all"]) == (True, True)
        assert first.stdout.strip() not in done.stdout


Invoke = Callable[..., tuple[Result, list[object]]]


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Runs `demo --json` up to the point where nodes start: its result, and the keys it came to."""

    class Reached(Exception):
        pass

    def invoke(
        *arguments: object, variable: str | None = None, **options: Any
    ) -> tuple[Result, list[object]]:
        keys: list[object] = []

        def run(count: int, name: str, network_key: object, step: object) -> None:
            keys.append(network_key)
            raise Reached

        monkeypatch.setattr(demo, "run", run)
        environment = {"KADEPY_NETWORK_KEY": variable}
        line = ["demo", "--json", *map(str, arguments)]
        return CliRunner().invoke(main, line, env=environment, **options), keys

    return invoke


FILES = {
    "one key": (KEY.hex().encode(), [KEY]),
    "a line": (KEY.hex().encode() + b"\n", [KEY]),
    "a line of Windows": (KEY.hex().encode() + b"\r\n", [KEY]),
    "capital letters": (KEY.hex().upper().encode(), [KEY]),
    "two keys": (f"{KEY.hex()}\n{OTHER.hex()}\n".encode(), [KEY, OTHER]),
    "two keys in a line": (f"  {OTHER.hex()} {KEY.hex()}".encode(), [OTHER, KEY]),
    "UTF-8 with a mark": ((KEY.hex() + "\r\n").encode("utf-8-sig"), [KEY]),
    # As PowerShell 5 writes it.
    "UTF-16, little endian": (b"\xff\xfe" + (KEY.hex() + "\r\n").encode("utf-16-le"), [KEY]),
    "UTF-16, big endian": (b"\xfe\xff" + (KEY.hex() + "\r\n").encode("utf-16-be"), [KEY]),
}


@pytest.mark.parametrize("what", FILES)
def test_a_key_file_holds_keys_as_hex(invoke: Invoke, tmp_path: Path, what: str) -> None:
    content, keys = FILES[what]
    file = tmp_path / "network.key"
    file.write_bytes(content)
    assert invoke("--key-file", file)[1] == [keys]


def test_a_key_comes_from_the_variable(invoke: Invoke) -> None:
    assert invoke()[1] == [None]
    assert invoke(variable=KEY.hex())[1] == [[KEY]]
    assert invoke(variable=f"{OTHER.hex()} {KEY.hex()}\n")[1] == [[OTHER, KEY]]


def test_a_key_file_wins_over_the_variable(invoke: Invoke, tmp_path: Path) -> None:
    file = tmp_path / "network.key"
    file.write_text(KEY.hex())
    for variable in (OTHER.hex(), "no key", ""):
        assert invoke("--key-file", file, variable=variable)[1] == [[KEY]]
    file.write_text("no key")
    result, keys = invoke("--key-file", file, variable=OTHER.hex())
    assert (result.exit_code, keys) == (2, [])


BAD_TEXTS = {
    "nothing": "",
    "white space": " \r\n",
    "no hex": KEY.hex()[:-1] + "g",
    "31 bytes": KEY[:31].hex(),
    "33 bytes": KEY.hex() + "ff",
    "63 digits": KEY.hex()[:-1],
    "zeros": "0" * 64,
    "0x": "0x" + KEY.hex(),
    "in parts": " ".join([KEY.hex()[:32], KEY.hex()[32:]]),
    "as a list": repr([KEY.hex()]),
    "a good one and a bad one": f"{KEY.hex()} {OTHER[:31].hex()}",
}


@pytest.mark.parametrize("source", ["file", "variable"])
@pytest.mark.parametrize("what", BAD_TEXTS)
def test_a_bad_key_exits_with_2_and_is_not_shown(
    invoke: Invoke, tmp_path: Path, what: str, source: str
) -> None:
    file = tmp_path / "network.key"
    file.write_text(BAD_TEXTS[what])
    if source == "file":
        result, keys = invoke("--key-file", file)
    else:
        result, keys = invoke(variable=BAD_TEXTS[what])
    assert (result.exit_code, keys) == (2, [])
    named = str(file) if source == "file" else "KADEPY_NETWORK_KEY"
    assert named in "".join(result.output.splitlines())
    assert_secret(result.output, KEY, OTHER)


def test_what_is_no_key_file_exits_with_2(invoke: Invoke, tmp_path: Path) -> None:
    large, binary = tmp_path / "large", tmp_path / "binary"
    large.write_text(f"{KEY.hex()}\n" * (2**20 // 65))
    binary.write_bytes(KEY)
    for path in (tmp_path / "missing", tmp_path, large, binary):
        result, keys = invoke("--key-file", path)
        assert (result.exit_code, keys) == (2, [])
        assert str(path) in "".join(result.output.splitlines())
        assert_secret(result.output, KEY)


def test_a_refused_key_file_is_closed(tmp_path: Path) -> None:
    file = tmp_path / "network.key"
    file.write_text("no key")
    done = kadepy_command("demo", "--key-file", file, PYTHONDEVMODE="1")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Warning" not in done.stderr


def test_no_argument_takes_the_key_itself() -> None:
    done = kadepy_command("demo", "--help")
    assert re.findall(r"--[\w-]*key[\w-]*", done.stdout) == ["--key-file"]
    for option in ("--key", "--network-key"):
        result = CliRunner().invoke(main, ["demo", option, KEY.hex()])
        assert result.exit_code == 2
        assert "No such option" in result.output
        assert_secret(result.output, KEY)
