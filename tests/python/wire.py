"""A small codec of the wire protocol that shares nothing with kadepy; what to do with packets is
left to the tests, which play v0.1 nodes and hostile peers with it."""

from __future__ import annotations

import enum
import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MAGIC = b"KP\x01"
Listed = tuple[bytes, str, int]


class Type(enum.IntEnum):
    PING = 0
    PONG = 1
    FIND_NODE = 2
    FOUND_NODES = 3
    ANNOUNCE_PEER = 4
    GET_PEERS = 5
    PEERS = 6
    ANNOUNCED = 7
    ERROR = 8


class Tag(enum.IntEnum):
    TXID = 1
    TOKEN = 2
    NODES4 = 3
    NODES6 = 4
    PEERS6 = 5
    ENDPOINT = 6
    FLAGS = 7
    PADDING = 8
    WANT = 9
    AGENT = 10
    BOOT = 11
    PART = 12
    TOTAL = 13
    PROBE = 14


class Clear:
    """How packets go over the wire without a network key."""

    def seal(self, packet: bytes) -> bytes:
        return packet

    def open(self, datagram: bytes) -> bytes:
        return datagram


REQUESTS = {Type.PING, Type.FIND_NODE, Type.ANNOUNCE_PEER, Type.GET_PEERS}


@dataclass(frozen=True)
class Packet:
    type: int
    sender: bytes
    body: bytes
    fields: dict[int, bytes] | None
    """None where the datagram has no trailer."""
    size: int

    @property
    def txid(self) -> bytes | None:
        return (self.fields or {}).get(Tag.TXID)

    @property
    def nodes(self) -> list[Listed]:
        assert self.type == Type.FOUND_NODES
        return nodes(self.body[1:])

    @property
    def peers(self) -> list[tuple[str, int]]:
        assert self.type == Type.PEERS
        entries = (self.body[at : at + 6] for at in range(33, len(self.body), 6))
        return [(socket.inet_ntoa(entry[:4]), _port(entry[4:])) for entry in entries]


def decode(datagram: bytes) -> Packet:
    kind, rest = datagram[0], datagram[33:]
    length = _body_length(kind, rest)
    assert len(rest) >= length, f"cut datagram: {datagram.hex(' ')}"
    body, end = rest[:length], rest[length:]
    fields = _fields(end[len(MAGIC) :]) if end.startswith(MAGIC) else None
    assert fields is not None or not end, f"bytes after the body: {datagram.hex(' ')}"
    return Packet(kind, datagram[1:33], body, fields, len(datagram))


def encode(
    kind: int, sender: bytes, body: bytes = b"", fields: Iterable[tuple[int, bytes]] | None = None
) -> bytes:
    return bytes([kind]) + sender + body + (b"" if fields is None else trailer(*fields))


def trailer(*fields: tuple[int, bytes]) -> bytes:
    return MAGIC + b"".join(struct.pack("!BH", tag, len(value)) + value for tag, value in fields)


def found_nodes(listed: Sequence[Listed]) -> bytes:
    return bytes([len(listed)]) + b"".join(node(*each) for each in listed)


def peers(topic: bytes, held: Sequence[tuple[str, int]]) -> bytes:
    return topic + bytes([len(held)]) + b"".join(peer(*each) for each in held)


def announce(topic: bytes, port: int) -> bytes:
    return topic + struct.pack("!H", port)


def node(node_id: bytes, ip: str, port: int) -> bytes:
    return node_id + peer(ip, port)


def peer(ip: str, port: int) -> bytes:
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    return socket.inet_pton(family, ip) + struct.pack("!H", port)


def nodes(entries: bytes) -> list[Listed]:
    each = (entries[at : at + 38] for at in range(0, len(entries), 38))
    return [(entry[:32], socket.inet_ntoa(entry[32:36]), _port(entry[36:])) for entry in each]


def distance(a: bytes, b: bytes) -> int:
    return int.from_bytes(a) ^ int.from_bytes(b)


def spaced(data: bytes, like: str) -> str:
    """`data` as spaced hex, `..` wherever `like` has it."""
    pattern = like.split()
    pairs = data.hex(" ").upper().split()
    masked = [".." if mask == ".." else pair for pair, mask in zip(pairs, pattern, strict=False)]
    return " ".join(masked + pairs[len(pattern) :])


def _body_length(kind: int, rest: bytes) -> int:
    match kind:
        case Type.PING | Type.PONG:
            return 0
        case Type.FIND_NODE | Type.GET_PEERS | Type.ANNOUNCED:
            return 32
        case Type.ANNOUNCE_PEER:
            return 34
        case Type.FOUND_NODES:
            return 1 + 38 * rest[0]
        case Type.PEERS:
            return 33 + 6 * rest[32]
        case Type.ERROR:
            return 2 + rest[1]
        case _:
            return len(rest)


def _fields(data: bytes) -> dict[int, bytes]:
    fields: dict[int, bytes] = {}
    while data:
        tag, length = struct.unpack_from("!BH", data)
        assert tag not in fields, f"tag {tag} twice"
        assert len(data) >= 3 + length, f"tag {tag} runs past the end"
        fields[tag] = data[3 : 3 + length]
        data = data[3 + length :]
    return fields


def _port(value: bytes) -> int:
    return int.from_bytes(value)
