"""v0.1 goes on: its nodes, played on a raw socket, and its programs, run as they were written;
today's own protocol is left to test_packets.py."""

from __future__ import annotations

import queue
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

import kadepy.swarm
import wire
from conftest import Child, RawNode, ScriptedNode, can_bind, wait_until
from kadepy import Config, Peer, RequestTimeout, Swarm
from wire import Tag, Type

TOPIC = bytes(range(32))


def test_v01_numbers_and_names_stand() -> None:
    names = ["PING", "PONG", "FIND_NODE", "FOUND_NODES", "ANNOUNCE_PEER", "GET_PEERS", "PEERS"]
    assert [getattr(kadepy.swarm, f"MSG_{name}") for name in names] == list(range(7))
    assert kadepy.swarm.Swarm is Swarm


def test_xor_distance_is_bytes() -> None:
    assert kadepy.xor_distance(b"\x0f" * 32, b"\xff" * 32) == b"\xf0" * 32


# --- v0.1 nodes -------------------------------------------------------------------------------


def test_a_v01_node_gets_what_v01_sends(swarm: Swarm, raw: RawNode, node: ScriptedNode) -> None:
    swarm.ping(*node.address)

    pong = wire.decode(raw.ask(swarm, wire.encode(Type.PING, raw.id)))
    assert (pong.type, pong.sender, pong.fields, pong.size) == (Type.PONG, swarm.id, None, 33)

    found = wire.decode(raw.ask(swarm, wire.encode(Type.FIND_NODE, raw.id, TOPIC)))
    assert (found.fields, found.nodes) == (None, [node.listed])

    raw.send(swarm, wire.encode(Type.ANNOUNCE_PEER, raw.id, wire.announce(TOPIC, 8080)))
    held = wire.decode(raw.ask(swarm, wire.encode(Type.GET_PEERS, raw.id, TOPIC)))
    assert (held.fields, held.body[:32], held.peers) == (None, TOPIC, [("127.0.0.1", 8080)])


def test_lookups_pass_through_v01_nodes(
    swarm: Swarm, make_node: Callable[..., ScriptedNode]
) -> None:
    near, far = make_node(v01=True), make_node(v01=True)
    near.lists = [far.listed]
    far.holds = [("127.0.0.1", 8080)]
    swarm.ping(*near.address)
    assert {node.port for node in swarm.find_node(TOPIC)} == {near.port, far.port}
    assert swarm.get_peers(TOPIC) == [Peer("127.0.0.1", 8080)]


def test_a_v01_node_cannot_list_addresses_that_are_not_local(
    swarm: Swarm, make_node: Callable[..., ScriptedNode]
) -> None:
    lister, listed = make_node(v01=True), make_node(v01=True)
    lister.lists = [(b"\x0a" * 32, "192.0.2.1", 4000), listed.listed]
    swarm.ping(*lister.address)
    assert {node.port for node in swarm.find_node(TOPIC)} == {lister.port, listed.port}
    asked = len(lister.asked_for(Type.FIND_NODE)) + len(listed.asked_for(Type.FIND_NODE))
    assert swarm.stats().packets_out["FIND_NODE"] == asked


def test_who_once_echoed_a_txid_must_always_do_so(
    make_swarm: Callable[..., Swarm], node: ScriptedNode
) -> None:
    swarm = make_swarm(config=Config(request_timeout=0.2))
    swarm.ping(*node.address)
    node.v01 = True
    with pytest.raises(RequestTimeout):
        swarm.ping(*node.address)
    assert swarm.stats().dropped["unsolicited"] == len(node.asked) - 1


def test_legacy_never_takes_no_reply_without_txid(
    make_swarm: Callable[..., Swarm], make_node: Callable[..., ScriptedNode]
) -> None:
    swarm, node = (
        make_swarm(config=Config(legacy="never", request_timeout=0.2)),
        make_node(v01=True),
    )
    with pytest.raises(RequestTimeout):
        swarm.ping(*node.address)
    assert swarm.stats().dropped["unsolicited"] == len(node.asked)


# --- what a callback gets ---------------------------------------------------------------------

ID = b"\x77" * 32
IPV6 = (b"\x88" * 32, "2001:db8::1", 4001)
IPV4 = (ID, "192.0.2.1", 4000)


def as_node(listed: wire.Listed) -> dict[str, object]:
    return dict(zip(("id", "ip", "port"), listed, strict=True))


def as_peer(listed: wire.Listed) -> dict[str, object]:
    return {"ip": listed[1], "port": listed[2]}


@pytest.mark.parametrize(
    ("kind", "body", "fields", "payload"),
    [
        (Type.PING, b"", None, None),
        (Type.PING, b"", [(Tag.TXID, bytes(8))], None),
        (Type.PONG, b"", None, None),
        (Type.FIND_NODE, TOPIC, None, TOPIC),
        (Type.FIND_NODE, TOPIC, [(Tag.TXID, bytes(8))], TOPIC),
        (Type.FOUND_NODES, b"\0", None, []),
        (Type.FOUND_NODES, wire.found_nodes([IPV4]), None, [as_node(IPV4)]),
        (
            Type.FOUND_NODES,
            wire.found_nodes([IPV4]),
            [(Tag.NODES6, wire.node(*IPV6))],
            [as_node(IPV4), as_node(IPV6)],
        ),
        (Type.ANNOUNCE_PEER, wire.announce(TOPIC, 80), None, wire.announce(TOPIC, 80)),
        (Type.GET_PEERS, TOPIC, None, TOPIC),
        (Type.PEERS, wire.peers(TOPIC, [IPV4[1:]]), None, [as_peer(IPV4)]),
        (
            Type.PEERS,
            wire.peers(TOPIC, [IPV4[1:]]),
            [(Tag.NODES4, wire.node(*IPV4)), (Tag.PEERS6, wire.peer(*IPV6[1:]))],
            [as_peer(IPV4), as_peer(IPV6)],
        ),
        (Type.ANNOUNCED, TOPIC, None, TOPIC),
        (Type.ERROR, b"\x01\x02no", None, b"\x01\x02no"),
        (20, b"hello", None, b"hello"),
        (255, b"KP\x01 is no trailer here", None, b"KP\x01 is no trailer here"),
    ],
)
def test_payloads_have_the_forms_of_v01(
    swarm: Swarm,
    raw: RawNode,
    kind: int,
    body: bytes,
    fields: list[tuple[int, bytes]] | None,
    payload: object,
) -> None:
    got: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
    swarm.set_callback(lambda *packet: got.put(packet))
    raw.send(swarm, wire.encode(kind, raw.id, body, fields))
    packet = got.get(timeout=20)
    assert packet == (raw.id, kind, *raw.address, payload)
    assert type(packet[4]) is type(payload)


# --- v0.1 programs ----------------------------------------------------------------------------

PROGRAM = """
import importlib, queue, sys

core = importlib.import_module(sys.argv[1])
from kadepy.swarm import MSG_FOUND_NODES, MSG_PEERS, MSG_PONG

peer, packets = int(sys.argv[2]), queue.Queue()
topic = bytes(range(32))


def on_packet(sender_id, msg_type, ip, port, payload):
    packets.put((msg_type, ip, port, payload))


def expect(msg_type):
    got = packets.get(timeout=20)
    while got[0] != msg_type:
        got = packets.get(timeout=20)
    return got[1:]


core.set_callback(on_packet)
print(core.create_swarm(0))
core.dht_ping("127.0.0.1", peer)
print(expect(MSG_PONG))
core.dht_find_node("127.0.0.1", peer, topic)
print(expect(MSG_FOUND_NODES))
core.dht_announce_peer("127.0.0.1", peer, topic, 8080)
core.dht_get_peers("127.0.0.1", peer, topic)
print(expect(MSG_PEERS))
core.send_packet("127.0.0.1", peer, 20, b"hello")
print(expect(20))
core.storage_cleanup(60_000)
input()
core.storage_cleanup(0)
print("cleaned")
input()
core.dump_routing_table()
print(core.xor_distance(topic, topic) == bytes(32))
"""


@pytest.mark.parametrize("module", ["kadepy", "kadepy._core"])
def test_a_program_written_for_v01_runs(
    start: Callable[..., Child], make_node: Callable[..., ScriptedNode], module: str
) -> None:
    peer = make_node(v01=True)
    peer.lists = [(ID, "127.0.0.1", 4000)]
    peer.holds = [("127.0.0.1", 8080)]
    peer.scripts[20] = lambda ask: [wire.encode(20, peer.id, ask.body[::-1])]
    program = start(PROGRAM, module, peer.port)

    port = int(program.line())
    assert program.line() == repr((*peer.address, None))
    listed = [{"id": ID, "ip": "127.0.0.1", "port": 4000}]
    assert program.line() == repr((*peer.address, listed))
    assert program.line() == repr((*peer.address, [{"ip": "127.0.0.1", "port": 8080}]))
    assert program.line() == repr((*peer.address, b"olleh"))
    wait_until(lambda: peer.asked_for(Type.ANNOUNCE_PEER))
    assert peer.asked_for(Type.ANNOUNCE_PEER)[0].body == wire.announce(TOPIC, 8080)

    asker = RawNode(b"\x99" * 32)
    to = ("127.0.0.1", port)
    announce = wire.encode(Type.ANNOUNCE_PEER, asker.id, wire.announce(TOPIC, 80))
    asker.socket.sendto(announce, to)
    assert held(asker, to) == [("127.0.0.1", 80)]
    program.tell()
    assert program.line() == "cleaned"
    assert held(asker, to) == []
    asker.close()

    program.tell()
    assert program.wait() == 0
    dumped = program.rest()
    assert dumped[-1] == "True"
    assert str(peer.port) in "".join(dumped[:-1])
    assert program.stderr == ""


def held(asker: RawNode, to: tuple[str, int]) -> list[tuple[str, int]]:
    asker.socket.sendto(wire.encode(Type.GET_PEERS, asker.id, TOPIC), to)
    while (reply := asker.receive())[0] in wire.REQUESTS:
        pass
    packet = wire.decode(reply)
    return packet.peers if packet.type == Type.PEERS else []


# Answers each line with what it evaluates to.
SHELL = """
import sys
import kadepy
from kadepy import ClosedError, Swarm

def refused(name, *args):
    try:
        getattr(kadepy, name)(*args)
    except ClosedError:
        return True
    return False

for line in sys.stdin:
    print(eval(line), flush=True)
"""


@pytest.fixture
def shell(start: Callable[..., Child]) -> Child:
    return start(SHELL)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("dht_ping", ("127.0.0.1", 4000)),
        ("dht_find_node", ("127.0.0.1", 4000, TOPIC)),
        ("dht_announce_peer", ("127.0.0.1", 4000, TOPIC, 80)),
        ("dht_get_peers", ("127.0.0.1", 4000, TOPIC)),
        ("send_packet", ("127.0.0.1", 4000, 20, b"hi")),
        ("storage_cleanup", (0,)),
        ("dump_routing_table", ()),
    ],
)
def test_without_a_node_the_functions_raise_closed_error(
    shell: Child, name: str, args: tuple[object, ...]
) -> None:
    assert shell.ask("kadepy.set_callback(print)") == "None"
    assert shell.ask(f"refused({name!r}, *{args!r})") == "True"
    assert shell.ask("Swarm(host='127.0.0.1').close()") == "None"
    assert shell.ask(f"refused({name!r}, *{args!r})") == "True"


def test_the_default_node_is_the_last_created_else_the_first_open(
    shell: Child, raw: RawNode
) -> None:
    def default() -> int:
        shell.ask(f"kadepy.dht_ping(*{raw.address!r})")
        port: int = raw.socket.recvfrom(65_535)[1][1]
        return port

    first = int(shell.ask("(a := Swarm(host='127.0.0.1')).port"))
    second = int(shell.ask("(b := Swarm(host='127.0.0.1')).port"))
    assert default() == first
    shell.ask("a.close()")
    assert default() == second
    created = int(shell.ask("kadepy.create_swarm()"))
    assert default() == created
    again = int(shell.ask("kadepy.create_swarm()"))
    assert default() == again
    assert can_bind(created)
    assert shell.ask("b.closed") == "False"


def test_announce_to_and_lookup_from_do_not_wait(swarm: Swarm, raw: RawNode) -> None:
    # The raw socket never answers: a call that waits would not return.
    swarm.lookup_from(*raw.address, TOPIC)
    asked = wire.decode(raw.receive())
    assert (asked.type, asked.body) == (Type.GET_PEERS, TOPIC)


def test_announce_to_announces_to_that_node(swarm: Swarm, node: ScriptedNode) -> None:
    swarm.announce_to(*node.address, TOPIC, 8080)
    wait_until(lambda: node.asked_for(Type.ANNOUNCE_PEER))
    assert node.asked_for(Type.ANNOUNCE_PEER)[0].body == wire.announce(TOPIC, 8080)


def test_find_node_iterative_gives_addresses(swarm: Swarm, node: ScriptedNode) -> None:
    assert swarm.find_node_iterative(TOPIC) == []
    swarm.ping(*node.address)
    found = swarm.find_node_iterative(TOPIC)
    assert found == [node.address]
    assert type(found[0]) is tuple


def test_nothing_but_the_dump_prints() -> None:
    script = (
        "import kadepy; port = kadepy.create_swarm(); kadepy.set_callback(lambda *packet: None); "
        "kadepy.dht_ping('127.0.0.1', port); kadepy.send_packet('127.0.0.1', port, 20, b'hi')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


CALLBACK = """
import threading
import kadepy
from kadepy import Swarm

kinds = []
arrived = threading.Semaphore(0)

def callback(sender_id, msg_type, ip, port, payload):
    kinds.append(msg_type)
    arrived.release()

kadepy.set_callback(callback)
"""

CALLBACK_STAYS = """
with Swarm(host="127.0.0.1") as other, Swarm(host="127.0.0.1") as sender:
    sender.send(*other.address, 20, b"to the first swarm")
    arrived.acquire(timeout=10)
for kind in (21, 22):
    port = kadepy.create_swarm()
    with Swarm(host="127.0.0.1") as sender:
        sender.send("127.0.0.1", port, kind, b"to the one made last")
        arrived.acquire(timeout=10)
print(kinds)
"""


def test_the_callback_is_that_of_whichever_node_is_the_default(
    start: Callable[..., Child],
) -> None:
    child = start(CALLBACK + CALLBACK_STAYS)
    assert child.line() == "[20, 21, 22]"
    assert child.wait() == 0


def test_a_port_in_use_leaves_the_default_node_as_it_was(start: Callable[..., Child]) -> None:
    child = start("""
import kadepy
from kadepy import Swarm
with Swarm() as other, Swarm(host="127.0.0.1") as asker:
    port = kadepy.create_swarm()
    try:
        kadepy.create_swarm(other.port)
    except OSError as error:
        print(error.errno is not None, asker.ping("127.0.0.1", port) > 0)
""")
    assert child.line() == "True True"
    assert child.wait() == 0


CALLBACK_MOVES = """
with Swarm(host="127.0.0.1") as other, Swarm(host="127.0.0.1") as sender:
    port = kadepy.create_swarm()
    sender.send(*other.address, 20, b"to one that is not the default any more")
    sender.send("127.0.0.1", port, 21, b"to the default")
    arrived.acquire(timeout=10)
    kadepy.set_callback(None)
    sender.send("127.0.0.1", port, 22, b"to nobody")
    sender.ping("127.0.0.1", port)
    sender.ping(other.address)
print(kinds)
"""


def test_one_node_at_a_time_has_the_process_s_callback(start: Callable[..., Child]) -> None:
    child = start(CALLBACK + CALLBACK_MOVES)
    assert child.line() == "[21]"
    assert child.wait() == 0
