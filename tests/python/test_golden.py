"""Golden packets of each type against a live node; refusals are left to test_packets.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import wire
from conftest import RawNode, ScriptedNode
from kadepy import Swarm
from wire import Tag, Type

HEX_NODE = " ".join(["22"] * 32)  # the node that is asked
HEX_ASKER = " ".join(["11"] * 32)
HEX_CONTACT = " ".join(["33"] * 32)  # the one contact in its table
HEX_HELD = " ".join(["44"] * 32)  # the topic that it holds peer 127.0.0.1:8080 of
HEX_OTHER = " ".join(["55"] * 32)

TXID = "01 00 08 A1 A2 A3 A4 A5 A6 A7 A8"
ENDPOINT = "06 00 06 7F 00 00 01 {asker}"
TOKEN = "02 00 10" + 16 * " .."
BOOT = "0B 00 02 .. .."
PADDING = "08 01 4E" + 0x14E * " 00"
CONTACT = HEX_CONTACT + " 7F 00 00 01 {contact}"
PEER = "7F 00 00 01 1F 90"

EXCHANGES = {
    "PING": (
        f"00 {HEX_ASKER}",
        f"01 {HEX_NODE}",
    ),
    "PING with a trailer": (
        f"00 {HEX_ASKER} 4B 50 01 {TXID}",
        f"01 {HEX_NODE} 4B 50 01 {TXID} {ENDPOINT} {BOOT}",
    ),
    "FIND_NODE": (
        f"02 {HEX_ASKER} {HEX_OTHER}",
        f"03 {HEX_NODE} 01 {CONTACT}",
    ),
    "FIND_NODE with a trailer": (
        f"02 {HEX_ASKER} {HEX_OTHER} 4B 50 01 {TXID} {PADDING}",
        f"03 {HEX_NODE} 01 {CONTACT} 4B 50 01 {TXID} {ENDPOINT} {BOOT}",
    ),
    "FIND_NODE that wants no IPv4": (
        f"02 {HEX_ASKER} {HEX_OTHER} 4B 50 01 {TXID} 09 00 01 02 {PADDING}",
        f"03 {HEX_NODE} 00 4B 50 01 {TXID} {ENDPOINT} {BOOT}",
    ),
    "GET_PEERS of a topic nobody announced": (
        f"05 {HEX_ASKER} {HEX_OTHER}",
        f"03 {HEX_NODE} 01 {CONTACT}",
    ),
    "GET_PEERS of a topic nobody announced, with a trailer": (
        f"05 {HEX_ASKER} {HEX_OTHER} 4B 50 01 {TXID} {PADDING}",
        f"03 {HEX_NODE} 01 {CONTACT} 4B 50 01 {TXID} {ENDPOINT} {TOKEN} {BOOT}",
    ),
    "GET_PEERS": (
        f"05 {HEX_ASKER} {HEX_HELD}",
        f"06 {HEX_NODE} {HEX_HELD} 01 {PEER}",
    ),
    "GET_PEERS with a trailer": (
        f"05 {HEX_ASKER} {HEX_HELD} 4B 50 01 {TXID} {PADDING}",
        f"06 {HEX_NODE} {HEX_HELD} 01 {PEER} 4B 50 01 {TXID} {ENDPOINT} {TOKEN} {BOOT}"
        f" 03 00 26 {CONTACT}",
    ),
    "ANNOUNCE_PEER with a trailer": (
        f"04 {HEX_ASKER} {HEX_OTHER} 1F 90 4B 50 01 {TXID}",
        f"07 {HEX_NODE} {HEX_OTHER} 4B 50 01 {TXID} {ENDPOINT} {BOOT}",
    ),
}


@pytest.fixture
def asked(
    make_swarm: Callable[..., Swarm],
    make_raw: Callable[..., RawNode],
    make_node: Callable[..., ScriptedNode],
) -> tuple[Swarm, RawNode, ScriptedNode]:
    swarm = make_swarm(node_id=bytes.fromhex(HEX_NODE))
    asker = make_raw(bytes.fromhex(HEX_ASKER))
    contact = make_node(bytes.fromhex(HEX_CONTACT))
    swarm.ping(*contact.address)
    announcer = make_raw()
    held = bytes.fromhex(HEX_HELD)
    announcer.send(
        swarm, wire.encode(Type.ANNOUNCE_PEER, announcer.id, wire.announce(held, 0x1F90))
    )
    announcer.round_trip(swarm)
    return swarm, asker, contact


@pytest.mark.parametrize("name", EXCHANGES)
def test_answers_are_as_written(asked: tuple[Swarm, RawNode, ScriptedNode], name: str) -> None:
    swarm, asker, contact = asked
    request, reply = EXCHANGES[name]
    ports = {"asker": hex_port(asker.port), "contact": hex_port(contact.port)}
    expected = reply.format(**ports)
    asker.send(swarm, bytes.fromhex(request))
    assert wire.spaced(asker.receive(), like=expected) == expected


def test_a_token_opens_the_announce_and_no_other_does(
    asked: tuple[Swarm, RawNode, ScriptedNode],
) -> None:
    swarm, asker, _ = asked
    request, _ = EXCHANGES["GET_PEERS with a trailer"]
    fields = wire.decode(asker.ask(swarm, bytes.fromhex(request))).fields
    assert fields is not None
    token = fields[Tag.TOKEN].hex(" ").upper()
    ends = f"4B 50 01 {TXID} {ENDPOINT} {BOOT}".format(asker=hex_port(asker.port))

    announce = f"04 {HEX_ASKER} {HEX_HELD} 1F 91 4B 50 01 {TXID} 02 00 10 {token}"
    expected = f"07 {HEX_NODE} {HEX_HELD} {ends}"
    reply = asker.ask(swarm, bytes.fromhex(announce))
    assert wire.spaced(reply, like=expected) == expected

    foreign = f"04 {HEX_ASKER} {HEX_OTHER} 1F 91 4B 50 01 {TXID} 02 00 10 {token}"
    reply = asker.ask(swarm, bytes.fromhex(foreign))
    length = reply[34]
    assert 1 <= length <= 100
    expected = f"08 {HEX_NODE} 01 {length:02X}{length * ' ..'} {ends}"
    assert wire.spaced(reply, like=expected) == expected
    assert reply[35 : 35 + length].decode().isprintable()


def test_requests_carry_a_txid_and_lookups_are_padded(swarm: Swarm, node: ScriptedNode) -> None:
    target = bytes(range(32))
    swarm.ping(*node.address)
    swarm.find_node(target)
    swarm.announce_peer(target)
    swarm.announce_peer(target, 0x1F90)

    by_type = {kind: node.asked_for(kind)[0] for kind in wire.REQUESTS}
    assert all(packet.sender == swarm.id for packet in node.asked)
    assert all(len(packet.txid or b"") == 8 for packet in node.asked)
    assert len({packet.txid for packet in node.asked}) == len(node.asked)
    assert by_type[Type.PING].size <= 100
    for kind in (Type.FIND_NODE, Type.GET_PEERS):
        packet = by_type[kind]
        assert (packet.body, packet.size) == (target, 416)
        assert packet.fields is not None
        assert not packet.fields[Tag.PADDING].strip(b"\0")

    of_source, of_port = node.asked_for(Type.ANNOUNCE_PEER)
    # The port field is for v0.1 nodes, which do not know the flag.
    assert of_source.body == wire.announce(target, swarm.port)
    assert of_port.body == wire.announce(target, 0x1F90)
    assert of_source.fields is not None
    assert of_port.fields is not None
    assert of_source.fields[Tag.TOKEN] == of_port.fields[Tag.TOKEN] == b"token of " + node.id[:4]
    assert of_source.fields[Tag.FLAGS] == b"\x02"
    assert of_port.fields.get(Tag.FLAGS, b"\0") == b"\0"


def test_an_application_message_has_no_trailer(swarm: Swarm, raw: RawNode) -> None:
    swarm.send(*raw.address, 20, b"hi")
    expected = f"14 {swarm.id.hex(' ').upper()} 68 69"
    assert wire.spaced(raw.receive(), like=expected) == expected


def hex_port(port: int) -> str:
    return port.to_bytes(2).hex(" ").upper()
