"""How packets reach a callback: order, threads, bounds, errors; the forms of payloads are left to
test_v01.py."""

from __future__ import annotations

import logging
import queue
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

import wire
from conftest import DEADLINE, RawNode, wait_until
from kadepy import Config, Node, Swarm
from wire import Type

Packet = tuple[bytes, int, str, int, Any]
Make = Callable[..., Swarm]


class Box:
    """A callback that keeps what it gets."""

    def __init__(self) -> None:
        self.packets: queue.SimpleQueue[Packet] = queue.SimpleQueue()

    def __call__(self, *packet: Any) -> None:
        self.packets.put(packet)

    def payload(self) -> Any:
        return self.packets.get(timeout=DEADLINE)[4]


def message(raw: RawNode, payload: bytes) -> bytes:
    return wire.encode(20, raw.id, payload)


def test_packets_come_in_order_and_one_at_a_time_on_one_thread(swarm: Swarm, raw: RawNode) -> None:
    seen: list[bytes] = []
    threads: set[int] = set()
    running = threading.Lock()

    def callback(*packet: Any) -> None:
        assert running.acquire(blocking=False)
        threads.add(threading.get_ident())
        if packet[1] == 20:
            seen.append(packet[4])
        running.release()

    swarm.set_callback(callback)
    sent = [n.to_bytes(2) for n in range(1_000)]
    for n, payload in enumerate(sent):
        raw.send(swarm, message(raw, payload))
        if n % 100 == 0:
            raw.round_trip(swarm)  # so that the socket's buffer drops nothing
    wait_until(lambda: len(seen) == len(sent))
    assert seen == sent
    assert len(threads) == 1
    assert threads.isdisjoint({threading.get_ident()})
    assert swarm.stats().callback_errors == 0


def test_a_slow_callback_delays_no_packet_and_the_oldest_are_dropped(
    make_swarm: Make, raw: RawNode
) -> None:
    swarm = make_swarm(config=Config(callback_queue=4))
    entered, go_on = threading.Event(), threading.Event()
    seen: list[object] = []

    def callback(*packet: Any) -> None:
        seen.append(packet[4])
        entered.set()
        assert go_on.wait(DEADLINE)

    swarm.set_callback(callback)
    raw.send(swarm, message(raw, b"first"))
    assert entered.wait(DEADLINE)
    for n in range(20):
        raw.send(swarm, message(raw, bytes([n])))
    raw.round_trip(swarm)
    # The answer may leave before the last packets are in the queue.
    wait_until(lambda: swarm.stats().callback_dropped == 17)
    assert swarm.stats().callback_queue == 4

    go_on.set()
    wait_until(lambda: len(seen) == 5)
    # The last is the PING that proved the node alive.
    assert seen == [b"first", b"\x11", b"\x12", b"\x13", None]
    wait_until(lambda: swarm.stats().callback_queue == 0)


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_what_a_callback_raises_is_logged_with_its_traceback_and_the_next_runs(
    swarm: Swarm, raw: RawNode, caplog: pytest.LogCaptureFixture, error: type[BaseException]
) -> None:
    box = Box()

    def callback(*packet: Any) -> None:
        if packet[4] == b"bad":
            raise error("from the callback")
        box(*packet)

    swarm.set_callback(callback)
    raw.send(swarm, message(raw, b"bad"))
    raw.send(swarm, message(raw, b"good"))
    assert box.payload() == b"good"
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("kadepy", logging.ERROR)
    assert record.getMessage() == f"node on port {swarm.port}: {callback!r} raised an exception"
    assert isinstance(record.exc_info, tuple)
    _, raised, traceback = record.exc_info
    assert (type(raised), str(raised)) == (error, "from the callback")
    assert traceback is not None
    assert swarm.stats().callback_errors == 1


def test_a_callback_of_wrong_arity_is_logged(
    swarm: Swarm, raw: RawNode, caplog: pytest.LogCaptureFixture
) -> None:
    swarm.set_callback(lambda: None)  # type: ignore[arg-type, misc]
    raw.send(swarm, message(raw, b"hi"))
    wait_until(lambda: "TypeError" in caplog.text)
    assert swarm.stats().callback_errors == 1


async def coroutine(*packet: Any) -> None:
    raise AssertionError


@pytest.mark.parametrize("callback", [coroutine, 5, "name", b""])
def test_async_functions_and_what_is_not_callable_are_refused_when_set(
    swarm: Swarm, raw: RawNode, callback: Any
) -> None:
    box = Box()
    swarm.set_callback(box)
    with pytest.raises(TypeError, match=r"callback|callable|async"):
        swarm.set_callback(callback)
    raw.send(swarm, message(raw, b"hi"))
    assert box.payload() == b"hi"


def test_a_callback_may_look_things_up(swarm: Swarm, make_swarm: Make, raw: RawNode) -> None:
    other = make_swarm()
    swarm.ping(*other.address)
    found: queue.SimpleQueue[list[Node]] = queue.SimpleQueue()

    def callback(sender: bytes, kind: int, ip: str, port: int, payload: Any) -> None:
        if kind == 20:
            found.put(swarm.find_node(payload))

    swarm.set_callback(callback)
    raw.send(swarm, message(raw, bytes(32)))
    assert found.get(timeout=DEADLINE) == [Node(other.id, *other.address)]


CALLS: dict[str, Callable[[Swarm, tuple[str, int]], object]] = {
    "ping": lambda swarm, at: swarm.ping(at) > 0,
    "bootstrap": lambda swarm, at: swarm.bootstrap(at) == 1,
    "get_peers": lambda swarm, at: swarm.get_peers(bytes(32)) == [],
    "iter_peers": lambda swarm, at: list(swarm.iter_peers(bytes(32))) == [],
    "announce_peer": lambda swarm, at: swarm.announce_peer(bytes(32)) == 1,
    "join": lambda swarm, at: swarm.join(bytes(32), on_peer=print).leave(),
    "send": lambda swarm, at: swarm.send(at, 20, b""),
    "nodes": lambda swarm, at: len(swarm.nodes()) == 1,
    "stats": lambda swarm, at: swarm.stats().contacts == 1,
    "repr": lambda swarm, at: repr(swarm).startswith("<Swarm"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_callback_may_call_any_method(
    swarm: Swarm, make_swarm: Make, raw: RawNode, name: str
) -> None:
    other = make_swarm()
    swarm.ping(*other.address)
    came_out: queue.SimpleQueue[object] = queue.SimpleQueue()

    def callback(*packet: Any) -> None:
        if packet[1] == 20:
            came_out.put(CALLS[name](swarm, other.address) in (True, None))

    swarm.set_callback(callback)
    raw.send(swarm, message(raw, b"hi"))
    assert came_out.get(timeout=DEADLINE) is True


def test_close_waits_for_no_callback(make_swarm: Make, raw: RawNode) -> None:
    swarm = make_swarm()
    entered, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def callback(*packet: Any) -> None:
        entered.set()
        assert go_on.wait(DEADLINE)
        ended.set()

    swarm.set_callback(callback)
    raw.send(swarm, message(raw, b"hi"))
    raw.send(swarm, message(raw, b"this one waits"))
    assert entered.wait(DEADLINE)
    entered.clear()
    swarm.close()
    go_on.set()
    assert ended.wait(DEADLINE)
    assert not entered.is_set()


def test_a_callback_may_close_its_swarm(swarm: Swarm, raw: RawNode) -> None:
    closed = threading.Event()

    def callback(*packet: Any) -> None:
        swarm.close()
        closed.set()

    swarm.set_callback(callback)
    raw.send(swarm, message(raw, b"hi"))
    raw.send(swarm, message(raw, b"hi"))
    assert closed.wait(DEADLINE)
    assert swarm.closed


def test_a_callback_may_replace_itself(swarm: Swarm, raw: RawNode) -> None:
    first, second = Box(), Box()

    def callback(*packet: Any) -> None:
        swarm.set_callback(second)
        first(*packet)

    swarm.set_callback(callback)
    raw.send(swarm, message(raw, b"1"))
    assert first.payload() == b"1"
    raw.send(swarm, message(raw, b"2"))
    assert second.payload() == b"2"
    assert first.packets.empty()


def test_none_removes_the_callback(swarm: Swarm, raw: RawNode) -> None:
    removed, later = Box(), Box()
    swarm.set_callback(removed)
    swarm.set_callback(None)
    raw.send(swarm, message(raw, b"1"))
    raw.round_trip(swarm)
    swarm.set_callback(later)
    raw.send(swarm, message(raw, b"2"))
    assert later.payload() == b"2"
    assert removed.packets.empty()


def test_what_decodes_reaches_the_callback_and_what_does_not_decode_does_not(
    swarm: Swarm, raw: RawNode
) -> None:
    box = Box()
    swarm.set_callback(box)
    raw.send(swarm, wire.encode(Type.FIND_NODE, raw.id, b"malformed"))
    raw.send(swarm, wire.encode(9, raw.id, b"reserved"))
    raw.send(swarm, wire.encode(Type.ANNOUNCED, raw.id, bytes(32)))  # unsolicited
    raw.send(swarm, wire.encode(20, bytes(32), b"from nobody"))  # no id that a node may have
    assert box.payload() == bytes(32)
    assert box.payload() == b"from nobody"


def test_a_logging_filter_that_raises_does_not_end_the_callbacks(
    swarm: Swarm, raw: RawNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[BaseException | None] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda told: reported.append(told.exc_value))
    box = Box()

    def callback(*packet: Any) -> None:
        if packet[4] == b"bad":
            raise KeyError
        box(*packet)

    def refuse(record: object) -> bool:
        raise ValueError

    logger = logging.getLogger("kadepy")
    logger.addFilter(refuse)
    try:
        swarm.set_callback(callback)
        raw.send(swarm, message(raw, b"bad"))
        raw.send(swarm, message(raw, b"good"))
        assert box.payload() == b"good"
    finally:
        logger.removeFilter(refuse)
    assert [type(error) for error in reported] == [ValueError]
    assert swarm.stats().callback_errors == 1
