"""Topics that are joined, on real sockets: who is met, what `on_peer` may do, how it ends;
when its rounds come is left to `tests/engine/memberships.rs`."""

from __future__ import annotations

import copy
import functools
import gc
import pickle
import queue
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import wire
from conftest import DEADLINE, Child, RawNode, ScriptedNode, can_bind, wait_until
from kadepy import ClosedError, Config, Membership, Peer, Swarm, topic
from wire import Type

TOPIC = bytes(range(32))
HERE = "127.0.0.1"
LIFE = 2.0
"""Seconds that a record lives where rounds are to come often: one each third of it."""
QUICK = Config(record_life=LIFE, request_timeout=0.2)
Make = Callable[..., Swarm]
Start = Callable[..., Child]

on_posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")


class Met:
    """An `on_peer` that keeps whom it is told of."""

    def __init__(self) -> None:
        self.peers: queue.SimpleQueue[Peer] = queue.SimpleQueue()

    def __call__(self, peer: Peer) -> None:
        self.peers.put(peer)

    def next(self) -> Peer:
        return self.peers.get(timeout=DEADLINE)


def announce(raw: RawNode, to: Swarm, *ports: int) -> None:
    """Makes peers at these ports known to the node itself, where no lookup is needed to meet."""
    for port in ports:
        raw.send(to, wire.encode(Type.ANNOUNCE_PEER, raw.id, wire.announce(TOPIC, port)))


def here(*ports: int) -> list[Peer]:
    return [Peer(HERE, port) for port in ports]


@pytest.fixture
def pair(make_swarm: Make) -> tuple[Swarm, Swarm]:
    """Two nodes that know each other and whose rounds come often."""
    first, second = make_swarm(config=QUICK), make_swarm(config=QUICK)
    second.bootstrap(first.address)
    return first, second


# --- who joins is found and finds -------------------------------------------------------------


def test_members_meet(make_network: Callable[[int], list[Swarm]]) -> None:
    swarms = make_network(5)
    memberships = [swarm.join(TOPIC, 4000 + n) for n, swarm in enumerate(swarms)]
    for n, membership in enumerate(memberships):
        others = here(*(4000 + other for other in range(5) if other != n))
        wait_until(lambda mine=membership, others=others: sorted(mine.peers) == others)  # type: ignore[misc]
        assert all(type(peer) is Peer for peer in membership.peers)


def test_a_membership_says_what_it_is(swarm: Swarm, node: ScriptedNode) -> None:
    with swarm.join(bytearray(TOPIC), 4000) as named, swarm.join(TOPIC) as unnamed:
        assert isinstance(named, Membership)
        assert (named.topic, named.port) == (TOPIC, 4000)
        assert (unnamed.topic, unnamed.port) == (TOPIC, None)
        assert (named.peers, named.stored) == ([], None) or named.stored == 0
        swarm.ping(*node.address)
        wait_until(lambda: named.stored == unnamed.stored == 1)
    asked = node.asked_for(Type.ANNOUNCE_PEER)
    assert {ask.body for ask in asked} == {wire.announce(TOPIC, p) for p in (4000, swarm.port)}


@pytest.mark.parametrize("port", [None, 4000])
def test_a_member_is_no_peer_of_its_own(pair: tuple[Swarm, Swarm], port: int | None) -> None:
    mine, other = pair
    met = Met()
    membership = mine.join(TOPIC, port, on_peer=met)
    # Rounds enough for the own record to come back from the other node.
    wait_until(lambda: other.stats().packets_out["PEERS"] >= 3)
    assert membership.peers == []
    assert other.get_peers(TOPIC) == here(port or mine.port)
    theirs = other.join(TOPIC, 4001)
    wait_until(lambda: theirs.peers)
    assert theirs.peers == here(port or mine.port)
    assert met.next() == Peer(HERE, 4001)
    assert membership.peers == here(4001)


def test_what_is_joined_is_announced_before_it_expires(pair: tuple[Swarm, Swarm]) -> None:
    mine, other = pair
    membership = mine.join(TOPIC, 4000)
    wait_until(lambda: other.stats().records == 1)
    first = time.monotonic()

    while time.monotonic() - first < 2.5 * LIFE:
        # What the other node itself stores, and has not let expire.
        assert other.get_peers(TOPIC) == here(4000)
    membership.leave()
    wait_until(lambda: other.get_peers(TOPIC) == [])


def test_it_lasts_though_nobody_holds_it(pair: tuple[Swarm, Swarm]) -> None:
    mine, other = pair
    mine.join(TOPIC, 4000)
    gc.collect()
    wait_until(lambda: other.stats().packets_in["ANNOUNCE_PEER"] >= 3)
    other.announce_peer(topic("another"), 4001)
    met = Met()
    mine.join(topic("another"), 4000, on_peer=met)
    gc.collect()
    assert met.next() == Peer(HERE, 4001)


@pytest.mark.parametrize("node_id", [TOPIC, None], ids=["as the same node", "as another node"])
def test_a_topic_is_joined_again_after_the_network_was_away(
    make_swarm: Make, node_id: bytes | None
) -> None:
    mine, other = make_swarm(config=QUICK), make_swarm(config=QUICK, node_id=TOPIC)
    met = Met()
    membership = mine.join(TOPIC, 4000, on_peer=met)
    mine.bootstrap(other.address)
    wait_until(lambda: membership.stored == 1)
    other.close()
    wait_until(lambda: membership.stored == 0)
    back = make_swarm(other.port, config=QUICK, node_id=node_id)
    wait_until(lambda: membership.stored == 1)
    assert back.get_peers(TOPIC) == here(4000)
    back.announce_peer(TOPIC, 4001)
    assert met.next() == Peer(HERE, 4001)


def test_a_thousand_memberships_are_no_burst(swarm: Swarm, node: ScriptedNode) -> None:
    arrivals: dict[bytes, float] = {}

    def note(ask: wire.Packet) -> list[bytes]:
        arrivals.setdefault(ask.body[:32], time.monotonic())
        return list(node.honest(ask))

    node.scripts[Type.ANNOUNCE_PEER] = note
    swarm.ping(*node.address)
    topics = {topic(str(n)) for n in range(1_000)}
    started = time.monotonic()
    memberships = [swarm.join(name, 4000) for name in topics]
    wait_until(lambda: len(arrivals) >= 30)
    assert arrivals.keys() <= topics
    # Ten a second, so none comes earlier than this. A busy machine makes them later.
    early = [n for n, at in enumerate(list(arrivals.values())) if at - started < 0.1 * n - 0.01]
    assert early == []
    for membership in memberships:
        membership.leave()
    assert swarm.stats().lookups_active == 0


# --- how it ends ------------------------------------------------------------------------------


def test_after_leave_nothing_is_announced_or_looked_up(
    make_swarm: Make, node: ScriptedNode
) -> None:
    swarm = make_swarm(config=QUICK)
    swarm.ping(*node.address)
    left, kept = topic("left"), topic("kept")
    with swarm.join(left, 4000) as membership:
        wait_until(lambda: membership.stored == 1)
    with pytest.raises(ZeroDivisionError), swarm.join(left):
        raise ZeroDivisionError
    before = len(node.asked)
    swarm.join(kept, 4000)
    # Rounds go on for the one that was not left.
    wait_until(
        lambda: len([a for a in node.asked_for(Type.ANNOUNCE_PEER) if a.body[:32] == kept]) > 3
    )
    asked = [ask for ask in node.asked[before:] if ask.type != Type.PING]
    assert {ask.body[:32] for ask in asked} == {kept}


def test_leave_may_come_again_and_keeps_what_was_known(
    swarm: Swarm, raw: RawNode, node: ScriptedNode
) -> None:
    swarm.ping(*node.address)
    membership = swarm.join(TOPIC, 4000)
    announce(raw, swarm, 4001, 4002)
    wait_until(lambda: membership.stored == 1 and len(membership.peers) == 2)
    for _ in range(2):
        membership.leave()
        announce(raw, swarm, 4003)
        raw.round_trip(swarm)
        assert (membership.topic, membership.port) == (TOPIC, 4000)
        assert (membership.stored, membership.peers) == (1, here(4001, 4002))
        membership.peers.clear()


def test_leave_from_eight_threads(swarm: Swarm, raw: RawNode) -> None:
    for _ in range(20):
        membership, together = swarm.join(TOPIC), threading.Barrier(8)
        announce(raw, swarm, 4001)
        wait_until(lambda mine=membership: mine.peers)  # type: ignore[misc]

        def leave(
            membership: Membership = membership, together: threading.Barrier = together
        ) -> list[Peer]:
            together.wait(DEADLINE)
            membership.leave()
            return membership.peers

        with ThreadPoolExecutor(8) as pool:
            left = [pool.submit(leave) for _ in range(8)]
            assert all(done.result() == here(4001) for done in left)


def test_it_ends_at_close(make_swarm: Make, raw: RawNode) -> None:
    swarm = make_swarm()
    membership = swarm.join(TOPIC, 4000)
    announce(raw, swarm, 4001)
    wait_until(lambda: membership.peers)
    swarm.close()
    with pytest.raises(ClosedError):
        swarm.join(TOPIC)
    for _ in range(2):
        assert membership.peers == here(4001)
        assert "ended" in repr(membership)
        membership.leave()


def test_joined_twice_each_is_a_membership_of_its_own(swarm: Swarm, raw: RawNode) -> None:
    first, second = swarm.join(TOPIC, 4000), swarm.join(TOPIC, 4000)
    first.leave()
    announce(raw, swarm, 4001)
    wait_until(lambda: second.peers == here(4001))
    assert first.peers == []


def test_topics_are_joined_and_left_from_eight_threads(swarm: Swarm, raw: RawNode) -> None:
    def come_and_go() -> None:
        for _ in range(100):
            membership = swarm.join(TOPIC, on_peer=met)
            announce(raw, swarm, 4001)
            assert membership.peers in ([], here(4001))
            membership.leave()
            assert "ended" in repr(membership)

    met = Met()
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(come_and_go) for _ in range(8)]:
            done.result()
    stays = swarm.join(TOPIC)
    announce(raw, swarm, 4001)
    wait_until(lambda: stays.peers)
    assert swarm.stats().callback_errors == 0


# --- on_peer ----------------------------------------------------------------------------------


def test_on_peer_is_called_once_for_each_peer_on_the_callback_s_thread(
    pair: tuple[Swarm, Swarm], raw: RawNode
) -> None:
    mine, other = pair
    threads, met, called = set(), Met(), threading.Event()

    def on_peer(peer: Peer) -> None:
        threads.add(threading.get_ident())
        met(peer)

    def callback(*packet: Any) -> None:
        threads.add(threading.get_ident())
        called.set()

    mine.set_callback(callback)
    membership = mine.join(TOPIC, 4000, on_peer=on_peer)
    rounds = other.stats().packets_in["ANNOUNCE_PEER"]
    other.join(TOPIC, 4001)
    assert met.next() == Peer(HERE, 4001)
    # It is found again in each round.
    wait_until(lambda: other.stats().packets_in["ANNOUNCE_PEER"] >= rounds + 3)
    announce(raw, mine, 4002)
    assert met.next() == Peer(HERE, 4002)
    assert met.peers.empty()
    assert membership.peers == here(4001, 4002)
    assert called.wait(DEADLINE)
    assert len(threads) == 1
    assert threads.isdisjoint({threading.get_ident()})


def test_who_was_there_before_is_told_too(swarm: Swarm, raw: RawNode) -> None:
    announce(raw, swarm, 4001, 4002)
    raw.round_trip(swarm)
    met = Met()
    swarm.join(TOPIC, on_peer=met)
    assert sorted([met.next(), met.next()]) == here(4001, 4002)


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_what_on_peer_raises_is_logged_and_the_next_peer_is_told(
    swarm: Swarm, raw: RawNode, caplog: pytest.LogCaptureFixture, error: type[BaseException]
) -> None:
    met = Met()

    def on_peer(peer: Peer) -> None:
        if peer.port == 4001:
            raise error("from on_peer")
        met(peer)

    swarm.join(TOPIC, on_peer=on_peer)
    announce(raw, swarm, 4001, 4002)
    assert met.next() == Peer(HERE, 4002)
    (record,) = caplog.records
    assert isinstance(record.exc_info, tuple)
    assert record.exc_info[0] is error
    assert "from on_peer" in caplog.text
    assert swarm.stats().callback_errors == 1


def test_an_on_peer_of_wrong_arity_is_logged(
    swarm: Swarm, raw: RawNode, caplog: pytest.LogCaptureFixture
) -> None:
    swarm.join(TOPIC, on_peer=lambda: None)  # type: ignore[misc, arg-type]
    announce(raw, swarm, 4001)
    wait_until(lambda: "TypeError" in caplog.text)


async def coroutine(peer: Peer) -> None:
    raise AssertionError


class Awaited:
    async def __call__(self, peer: Peer) -> None:
        raise AssertionError


@pytest.mark.parametrize(
    "on_peer", [coroutine, Awaited(), functools.partial(coroutine), 5, "name", b""]
)
def test_async_functions_and_what_is_not_callable_are_refused(
    swarm: Swarm, node: ScriptedNode, on_peer: Any
) -> None:
    swarm.ping(*node.address)
    with pytest.raises(TypeError, match="on_peer"):
        swarm.join(TOPIC, on_peer=on_peer)
    # Nothing was joined: the next round is for another topic.
    swarm.join(topic("another"))
    wait_until(lambda: node.asked_for(Type.ANNOUNCE_PEER))
    assert {ask.body[:32] for ask in node.asked_for(Type.GET_PEERS)} == {topic("another")}


def test_a_slow_on_peer_delays_no_packet_and_no_close(make_swarm: Make, raw: RawNode) -> None:
    swarm = make_swarm()
    entered, go_on, ended = threading.Event(), threading.Event(), threading.Event()
    told: list[Peer] = []

    def on_peer(peer: Peer) -> None:
        told.append(peer)
        entered.set()
        assert go_on.wait(DEADLINE)
        ended.set()

    membership = swarm.join(TOPIC, on_peer=on_peer)
    announce(raw, swarm, 4001, 4002)
    assert entered.wait(DEADLINE)
    raw.round_trip(swarm)
    wait_until(lambda: membership.peers == here(4001, 4002))
    swarm.close()
    assert can_bind(swarm.port)
    go_on.set()
    assert ended.wait(DEADLINE)
    assert told == here(4001)


def test_on_peer_may_call_any_method(swarm: Swarm, make_swarm: Make, raw: RawNode) -> None:
    other = make_swarm()
    swarm.ping(*other.address)
    results: queue.SimpleQueue[object] = queue.SimpleQueue()

    def on_peer(peer: Peer) -> None:
        results.put(swarm.get_peers(TOPIC))
        results.put([node.id for node in swarm.find_node(TOPIC)])
        with swarm.join(topic("another"), on_peer=on_peer) as inner:
            results.put(inner.topic)
        results.put(swarm.set_callback(None))  # type: ignore[func-returns-value]

    swarm.join(TOPIC, 4000, on_peer=on_peer)
    announce(raw, swarm, 4001)
    got = [results.get(timeout=DEADLINE) for _ in range(4)]
    assert Peer(HERE, 4001) in got[0]  # type: ignore[operator]
    assert got[1:] == [[other.id], topic("another"), None]


def test_on_peer_may_leave(swarm: Swarm, raw: RawNode) -> None:
    announce(raw, swarm, 4001, 4002, 4003)
    raw.round_trip(swarm)
    told, is_joined = Met(), threading.Event()

    def on_peer(peer: Peer) -> None:
        assert is_joined.wait(DEADLINE)
        membership.leave()
        told(peer)

    membership = swarm.join(TOPIC, on_peer=on_peer)
    wait_until(lambda: len(membership.peers) == 3)
    is_joined.set()
    told.next()
    later = Met()
    swarm.join(TOPIC, on_peer=later)
    for _ in range(3):
        later.next()
    assert told.peers.empty()
    assert len(membership.peers) == 3


def test_on_peer_may_close_its_swarm(
    make_swarm: Make, raw: RawNode, caplog: pytest.LogCaptureFixture
) -> None:
    swarm = make_swarm()
    announce(raw, swarm, 4001, 4002)
    raw.round_trip(swarm)
    told: list[Peer] = []
    dispatcher: list[threading.Thread] = []

    def on_peer(peer: Peer) -> None:
        told.append(peer)
        dispatcher.append(threading.current_thread())
        swarm.close()
        swarm.find_node(TOPIC)

    swarm.join(TOPIC, on_peer=on_peer)
    wait_until(lambda: dispatcher)
    dispatcher[0].join(DEADLINE)
    assert len(told) == 1
    assert swarm.closed
    assert caplog.records == []


# --- objects ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how", [pickle.dumps, copy.copy, copy.deepcopy], ids=["pickle", "copy", "deepcopy"]
)
def test_a_membership_cannot_be_copied(swarm: Swarm, how: Callable[[object], object]) -> None:
    membership = swarm.join(TOPIC)
    with pytest.raises(TypeError, match="Membership"):
        how(membership)
    membership.leave()
    with pytest.raises(TypeError, match="Membership"):
        how(membership)


class Application:
    """A swarm in a cycle with its memberships and what they call."""

    def __init__(self) -> None:
        self.swarm = Swarm(host=HERE)
        self.told = threading.Event()
        self.membership = self.swarm.join(TOPIC, on_peer=self.on_peer)

    def on_peer(self, peer: Peer) -> None:
        self.told.set()


@pytest.mark.parametrize("state", ["new", "told", "left", "closed"])
def test_a_cycle_with_on_peer_is_collected(raw: RawNode, state: str) -> None:
    application = Application()
    if state == "told":
        announce(raw, application.swarm, 4001)
        assert application.told.wait(DEADLINE)
    elif state == "left":
        application.membership.leave()
    elif state == "closed":
        application.swarm.close()
    port, alive, held = application.swarm.port, weakref.ref(application), [application]
    del application

    def collected() -> bool:
        held.clear()
        gc.collect()
        return alive() is None

    with warnings.catch_warnings():
        # Not recorded, for the record holds the swarm that the warning is about.
        warnings.simplefilter("ignore", ResourceWarning)
        wait_until(collected)
    wait_until(lambda: can_bind(port))


def test_a_closed_node_with_a_membership_is_freed_without_the_collector() -> None:
    gc.disable()
    try:
        with Swarm(host="127.0.0.1") as swarm:
            membership = swarm.join(TOPIC, on_peer=Met())
        node, joined = weakref.ref(swarm), weakref.ref(membership)
        del swarm, membership
        wait_until(lambda: node() is None and joined() is None)
    finally:
        gc.enable()


def test_what_left_is_let_go_of(swarm: Swarm) -> None:
    met = Met()
    membership = swarm.join(TOPIC, on_peer=met)
    alive: list[weakref.ref[Any]] = [weakref.ref(met), weakref.ref(membership)]
    membership.leave()
    del met, membership

    def collected() -> bool:
        gc.collect()
        return not any(reference() for reference in alive)

    wait_until(collected)


FORK = """
import os, sys, threading, warnings
from kadepy import ClosedError, Peer, Swarm

warnings.simplefilter("ignore", DeprecationWarning)  # Python's own, of a fork beside threads
swarm, met = Swarm(host="127.0.0.1"), threading.Event()
membership = swarm.join(bytes(32), 4000, on_peer=lambda peer: met.set())
calls = [
    lambda: membership.peers,
    lambda: membership.stored,
    membership.leave,
    lambda: swarm.join(bytes(32)),
]
child = os.fork()
if child == 0:
    for call in calls:
        try:
            call()
        except ClosedError as error:
            print("fork" in str(error))
    print(membership.topic == bytes(32), "ended" in repr(membership))
    # One of its own serves as ever.
    peers = []
    with Swarm(host="127.0.0.1") as own, own.join(bytes(32), 4001, on_peer=peers.append) as mine:
        own.bootstrap(swarm.address)
        while not (mine.stored and peers):
            threading.Event().wait(0.01)
    print(peers == [Peer("127.0.0.1", 4000)], met.is_set())
    del membership
    sys.exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(met.wait(20), membership.peers == [Peer("127.0.0.1", 4001)])
"""


@on_posix
def test_a_forked_child_has_no_membership_and_the_parent_s_goes_on(start: Start) -> None:
    parent = start(FORK)
    lines = [parent.line() for _ in range(8)]
    expected = [*["True"] * 4, "True True", "True False", "7", "True True"]
    assert (lines, parent.wait(), parent.stderr) == (expected, 0, "")
