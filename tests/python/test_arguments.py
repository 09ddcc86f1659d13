"""Bad arguments and what is said about them; what good ones do is left to the other files."""

from __future__ import annotations

import array
import copy
import ctypes
import dataclasses
import hashlib
import math
import pickle
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest

import kadepy
import wire
from conftest import RawNode, ScriptedNode
from kadepy import Config, Node, Peer, Stats, Swarm, topic
from wire import Type

TOPIC = bytes(range(32))
HERE = "127.0.0.1"
Call = Callable[[Swarm, Any], object]


def assert_told(told: BaseException, *words: object) -> None:
    text = re.sub(r"(?<=\d)[,_](?=\d)", "", str(told))  # 65,535 and 65_535 say it too
    for word in words:
        assert str(word) in text


# --- ports ------------------------------------------------------------------------------------

BAD_PORTS = [
    (-1, ValueError),
    (65_536, ValueError),
    (2**70, ValueError),
    (True, TypeError),
    ("80", TypeError),
    (80.0, TypeError),
]
TAKES_PORT: dict[str, Call] = {
    "Swarm": lambda swarm, port: Swarm(port, host=HERE),
    "ping": lambda swarm, port: swarm.ping(HERE, port),
    "bootstrap": lambda swarm, port: swarm.bootstrap(HERE, port),
    "bootstrap by pairs": lambda swarm, port: swarm.bootstrap([(HERE, port)]),
    "announce_peer": lambda swarm, port: swarm.announce_peer(TOPIC, port),
    "join": lambda swarm, port: swarm.join(TOPIC, port),
    "send": lambda swarm, port: swarm.send(HERE, port, 20, b""),
    "ping a Peer": lambda swarm, port: swarm.ping(Peer(HERE, port)),
    "announce_to": lambda swarm, port: swarm.announce_to(HERE, port, TOPIC),
    "lookup_from": lambda swarm, port: swarm.lookup_from(HERE, port, TOPIC),
    "create_swarm": lambda swarm, port: kadepy.create_swarm(port),
}


@pytest.mark.parametrize(("port", "error"), BAD_PORTS)
@pytest.mark.parametrize("method", TAKES_PORT)
def test_bad_ports(swarm: Swarm, method: str, port: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="port") as told:
        TAKES_PORT[method](swarm, port)
    if error is ValueError:
        assert_told(told.value, port, "65535")
    else:
        assert repr(port) in str(told.value) or type(port).__name__ in str(told.value)


@pytest.mark.parametrize("method", TAKES_PORT.keys() - {"Swarm", "create_swarm"})
def test_nobody_is_reached_at_port_0(swarm: Swarm, method: str) -> None:
    with pytest.raises(ValueError, match="port"):
        TAKES_PORT[method](swarm, 0)


# --- hosts and contacts -----------------------------------------------------------------------

BAD_HOSTS = [
    ("", ValueError),
    ("\0", ValueError),
    ("256.1.1.1", ValueError),
    ("127.0.0.1%lo", ValueError),
    ("fe80::1", ValueError),
    ("fe80::1%no-such-card", ValueError),
    ("fe80::1%", ValueError),
    ("h" * 10_240, ValueError),
    (None, TypeError),
    (5, TypeError),
    (b"127.0.0.1", TypeError),
]


@pytest.mark.parametrize(("host", "error"), BAD_HOSTS, ids=repr)
def test_bad_hosts(host: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="host") as told:
        Swarm(host=host)  # type: ignore[arg-type]
    assert len(str(told.value)) < 500


@pytest.mark.parametrize(("ip", "error"), BAD_HOSTS, ids=repr)
def test_bad_ips(swarm: Swarm, ip: Any, error: type[Exception]) -> None:
    for call in (
        lambda: swarm.send(ip, 80, 20, b""),
        lambda: swarm.ping(ip, 80, timeout=0),
        lambda: swarm.ping((ip, 80), timeout=0),
        lambda: swarm.lookup_from(ip, 80, TOPIC),
    ):
        with pytest.raises(error) as told:
            call()
        assert 10 < len(str(told.value)) < 500


@pytest.mark.parametrize(
    ("contact", "error"),
    [
        ("", ValueError),
        ("host", ValueError),
        ("host:", ValueError),
        (":80", ValueError),
        ("host:port", ValueError),
        ("host:65536", ValueError),
        ("[::1:80", ValueError),
        ("::1:80", ValueError),
        ("256.1.1.1:80", ValueError),
        (("256.1.1.1", 80), ValueError),
        ("[fe80::1]:80", ValueError),
        (("fe80::1", 80), ValueError),
        (("http://host/", 80), ValueError),
        ((".", 80), ValueError),
        (("a\u00df" * 200, 80), ValueError),
        (("127.0.0.1",), ValueError),
        (("127.0.0.1", 80, 80), ValueError),
        (5, TypeError),
        (None, TypeError),
        ([5], TypeError),
    ],
)
def test_bad_contacts(swarm: Swarm, contact: Any, error: type[Exception]) -> None:
    for call in (
        lambda: swarm.bootstrap(contact),
        lambda: Swarm(host=HERE, bootstrap=[contact]),
    ):
        with pytest.raises((error, TypeError) if error is ValueError else error) as told:
            call()
        assert len(str(told.value)) > 10


# --- topics, ids and other bytes --------------------------------------------------------------

TAKES_TOPIC: dict[str, Call] = {
    "find_node": lambda swarm, value: swarm.find_node(value),
    "get_peers": lambda swarm, value: swarm.get_peers(value),
    "iter_peers": lambda swarm, value: list(swarm.iter_peers(value)),
    "announce_peer": lambda swarm, value: swarm.announce_peer(value),
    "announce": lambda swarm, value: swarm.announce(value),
    "join": lambda swarm, value: swarm.join(value),
    "announce_to": lambda swarm, value: swarm.announce_to(HERE, 80, value),
    "lookup_from": lambda swarm, value: swarm.lookup_from(HERE, 80, value),
    "find_node_iterative": lambda swarm, value: swarm.find_node_iterative(value),
    "node_id": lambda swarm, value: Swarm(host=HERE, node_id=value).close(),
    "xor_distance": lambda swarm, value: kadepy.xor_distance(value, TOPIC),
}


@pytest.mark.parametrize("method", TAKES_TOPIC)
@pytest.mark.parametrize("length", [0, 31, 33])
def test_ids_and_topics_of_another_length(swarm: Swarm, method: str, length: int) -> None:
    with pytest.raises(ValueError, match="32") as told:
        TAKES_TOPIC[method](swarm, bytes(length))
    assert_told(told.value, length)


@pytest.mark.parametrize("method", TAKES_TOPIC.keys() - {"node_id"})
@pytest.mark.parametrize("value", [None, 5, [0] * 32])
def test_ids_and_topics_that_are_no_bytes(swarm: Swarm, method: str, value: object) -> None:
    with pytest.raises(TypeError, match=type(value).__name__):
        TAKES_TOPIC[method](swarm, value)


@pytest.mark.parametrize(
    "method",
    ["get_peers", "iter_peers", "announce_peer", "announce", "join", "announce_to", "lookup_from"],
)
@pytest.mark.parametrize("value", ["chess", "c" * 32])
def test_a_str_topic_is_refused_with_a_hint(swarm: Swarm, method: str, value: str) -> None:
    with pytest.raises(TypeError, match=re.escape("topic(")):
        TAKES_TOPIC[method](swarm, value)


@pytest.mark.parametrize("method", TAKES_TOPIC)
@pytest.mark.parametrize("how", ["strided", "released"])
def test_memoryviews_that_cannot_be_read(swarm: Swarm, method: str, how: str) -> None:
    view = memoryview(bytes(64))[::2] if how == "strided" else memoryview(bytes(32))
    if how == "released":
        view.release()
    with pytest.raises((TypeError, ValueError)):
        TAKES_TOPIC[method](swarm, view)


@pytest.mark.parametrize(
    "form",
    [
        bytes,
        bytearray,
        memoryview,
        lambda b: array.array("B", b),
        lambda b: array.array("I", b),
        (ctypes.c_ubyte * 32).from_buffer_copy,
    ],
)
def test_any_contiguous_bytes_like_object_will_do(
    swarm: Swarm, node: ScriptedNode, form: Callable[[bytes], bytes]
) -> None:
    swarm.ping(*node.address)
    swarm.find_node(form(TOPIC))
    assert node.asked_for(Type.FIND_NODE)[0].body == TOPIC
    assert kadepy.xor_distance(form(TOPIC), TOPIC) == bytes(32)


def test_a_bytearray_may_change_meanwhile(
    swarm: Swarm, make_node: Callable[..., ScriptedNode]
) -> None:
    near, far = make_node(), make_node()
    near.lists = [far.listed]
    swarm.ping(*near.address)
    target = bytearray(TOPIC)

    def change(ask: wire.Packet) -> Sequence[bytes]:
        target.clear()
        return near.honest(ask)

    near.scripts[Type.FIND_NODE] = change
    swarm.find_node(target)
    assert target == b""
    assert far.asked_for(Type.FIND_NODE)[0].body == TOPIC


@pytest.mark.parametrize(
    ("kind", "payload", "error", "words"),
    [
        (15, b"", ValueError, ["type", 15, 16, 255]),
        (256, b"", ValueError, ["type", 256, 16, 255]),
        (-1, b"", ValueError, ["type", -1]),
        (2**70, b"", ValueError, ["type"]),
        ("20", b"", TypeError, ["type", "str"]),
        (20, bytes(1_101), ValueError, ["payload", "1101", "1100"]),
        (20, "text", TypeError, ["payload", "str"]),
        (20, None, TypeError, ["payload", "None"]),
    ],
)
def test_bad_messages(
    swarm: Swarm, kind: Any, payload: Any, error: type[Exception], words: list[object]
) -> None:
    with pytest.raises(error) as told:
        swarm.send(HERE, 80, kind, payload)
    assert_told(told.value, *words)


def test_the_largest_message_goes(swarm: Swarm, raw: RawNode) -> None:
    swarm.send(*raw.address, 255, bytes(1_100))
    assert raw.receive() == b"\xff" + swarm.id + bytes(1_100)


def test_topic_is_sha256() -> None:
    assert topic("any name") == topic(b"any name") == hashlib.sha256(b"any name").digest()
    assert topic("é") == hashlib.sha256("é".encode()).digest()
    with pytest.raises(TypeError, match="int"):
        topic(5)  # type: ignore[arg-type]


# --- timeouts ---------------------------------------------------------------------------------

TAKES_TIMEOUT: dict[str, Call] = {
    "ping": lambda swarm, timeout: swarm.ping(HERE, 80, timeout=timeout),
    "bootstrap": lambda swarm, timeout: swarm.bootstrap(HERE, 80, timeout=timeout),
    "find_node": lambda swarm, timeout: swarm.find_node(TOPIC, timeout=timeout),
    "get_peers": lambda swarm, timeout: swarm.get_peers(TOPIC, timeout),
    "iter_peers": lambda swarm, timeout: list(swarm.iter_peers(TOPIC, timeout=timeout)),
    "announce_peer": lambda swarm, timeout: swarm.announce_peer(TOPIC, timeout=timeout),
    "find_node_iterative": lambda swarm, timeout: swarm.find_node_iterative(TOPIC, timeout),
}


@pytest.mark.parametrize("method", TAKES_TIMEOUT)
@pytest.mark.parametrize(
    ("timeout", "error"),
    [
        (-1, ValueError),
        (-0.001, ValueError),
        (math.nan, ValueError),
        (math.inf, ValueError),
        (-math.inf, ValueError),
        ("1", TypeError),
        (b"1", TypeError),
        (True, TypeError),
    ],
)
def test_bad_timeouts(swarm: Swarm, method: str, timeout: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="timeout") as told:
        TAKES_TIMEOUT[method](swarm, timeout)
    assert_told(told.value, timeout if error is ValueError else type(timeout).__name__)


@pytest.mark.parametrize("timeout", [1e18, 1e300, 2**62])
def test_a_timeout_of_ages_is_finite_too(swarm: Swarm, node: ScriptedNode, timeout: float) -> None:
    swarm.ping(*node.address, timeout=timeout)
    assert swarm.find_node(TOPIC, timeout=timeout) == [Node(*node.listed)]


# --- Config -----------------------------------------------------------------------------------


def test_config_defaults() -> None:
    config = Config()
    assert {name: getattr(config, name) for name in DEFAULTS} == DEFAULTS


DEFAULTS = {
    "k": 20,
    "alpha": 4,
    "lookup_queries": 120,
    "lookup_retries": 1,
    "shortlist": 100,
    "request_timeout": 2.0,
    "short_wait_min": 0.05,
    "short_wait_max": 0.5,
    "bucket_refresh": 900,
    "record_life": 1800,
    "topics": 10_000,
    "topic_peers": 256,
    "records": 100_000,
    "records_per_ip": 1_000,
    "reply_peers": 64,
    "lookup_peers": 4096,
    "candidates": 256,
    "candidate_pings": 10,
    "requests_per_second": 50,
    "requests_burst": 100,
    "requests_in_all": 50_000,
    "replacements": 10,
    "open_requests": 16_384,
    "operations": 65_536,
    "callback_queue": 8192,
    "receive_buffer": 4 * 2**20,
    "legacy": "local",
}


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        *[("k", value, ValueError) for value in (0, -1, 2**31, 2**70)],
        *[("alpha", value, ValueError) for value in (0, -1, 2**31, 2**70)],
        *[("request_timeout", v, ValueError) for v in (0, -1, math.nan, math.inf)],
        ("callback_queue", 0, ValueError),
        ("legacy", "sometimes", ValueError),
        ("k", "20", TypeError),
        ("k", 20.0, TypeError),
        ("k", True, TypeError),
        ("request_timeout", "2", TypeError),
    ],
)
def test_bad_config_values(field: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=field) as told:
        Config(**{field: value})
    assert_told(told.value, value if error is ValueError else type(value).__name__)


def test_config_refuses_what_it_does_not_know() -> None:
    with pytest.raises(TypeError, match="bogus"):
        Config(bogus=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Config(20)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="config"):
        Swarm(host=HERE, config={"k": 20})  # type: ignore[arg-type]


def test_config_is_a_frozen_value(make_swarm: Callable[..., Swarm]) -> None:
    config = Config(k=8)
    with pytest.raises(AttributeError):
        config.k = 9  # type: ignore[misc]
    assert config == Config(k=8) != Config()
    assert hash(config) == hash(Config(k=8))
    assert "k=8" in repr(config)
    make_swarm(config=config)


# --- signatures -------------------------------------------------------------------------------


def test_options_are_keywords(swarm: Swarm) -> None:
    with pytest.raises(TypeError):
        Swarm(0, HERE)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        swarm.find_node(TOPIC, 1.0)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        swarm.ping(HERE)


def test_stats_is_frozen(swarm: Swarm) -> None:
    stats = swarm.stats()
    assert isinstance(stats, Stats)
    with pytest.raises((AttributeError, dataclasses.FrozenInstanceError)):
        stats.bytes_in = 5  # type: ignore[misc]


def test_a_config_can_be_copied_and_pickled() -> None:
    config = Config(alpha=5, legacy="never", request_timeout=1.5)
    assert copy.copy(config) == pickle.loads(pickle.dumps(config)) == config


def test_a_peer_may_stand_in_the_place_of_ip_and_port(swarm: Swarm, raw: RawNode) -> None:
    peer = Peer("127.0.0.1", raw.port)
    swarm.send(peer, 20, b"a")
    swarm.send(peer, 20, payload=b"b")
    swarm.send(peer, type=20, payload=b"c")
    assert [raw.receive()[33:] for _ in range(3)] == [b"a", b"b", b"c"]


def test_each_tunable_s_documentation_gives_its_default() -> None:
    config = Config()
    for name, value in DEFAULTS.items():
        documented = re.search(r'Default ("?)([\w.]+)\1[;.]', getattr(Config, name).__doc__)
        assert documented, name
        assert documented[2] == (value if isinstance(value, str) else f"{value:.10g}"), name
    assert repr(config) == "Config()"
